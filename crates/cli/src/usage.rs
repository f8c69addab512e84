//! Complaints about how the program was called.

use clap::CommandFactory as _;
use clap::error::ErrorKind;

/// Ends the program with status 2, a problem with how `verb` was called, and how it is called.
pub(crate) fn wrong(verb: &str, problem: &str) -> ! {
    let mut command = crate::Arguments::command();
    // Only a built one knows its subcommands by their whole names.
    command.build();
    let verbs = verb.split(' ');
    let command = verbs.fold(&mut command, |command, verb| {
        command
            .find_subcommand_mut(verb)
            .expect("a verb names itself")
    });
    command.error(ErrorKind::ValueValidation, problem).exit()
}
