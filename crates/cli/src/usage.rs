//! Usage: arguments, environment variables, and errors in them.
//!
//! clap parses. What is added: an empty variable counts as not set, as deployment tools write it;
//! values of variables are not shown in help; and urls in complaints lose their passwords, because
//! standard error ends up in logs.

use std::any::Any;
use std::ffi::OsStr;
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::OnceLock;

use clap::builder::{BoolishValueParser, Resettable, TypedValueParser};
use clap::error::{Error, ErrorKind};
use clap::{Arg, ArgAction, Command, Parser};
use httppubsub_proto::url::redacted;

use crate::console;

/// Parses arguments and environment variables. Help and errors end the program.
pub(crate) fn parse<Arguments: Parser>() -> Arguments {
    let command = COMMAND.get_or_init(|| prepared(Arguments::command()));
    let parsed = command.clone().try_get_matches();
    let arguments = parsed.and_then(|matches| Arguments::from_arg_matches(&matches));
    arguments.unwrap_or_else(|error| exit(&error))
}

/// The program's command, known once its arguments have been parsed.
static COMMAND: OnceLock<Command> = OnceLock::new();

/// The program's command with all its verbs.
/// For completions and for complaints.
///
/// # Panics
///
/// Before [`parse`] was called, which `main` does first.
pub(crate) fn command() -> Command {
    let command = COMMAND.get();
    command.expect("arguments are parsed first").clone()
}

/// Ends the program with status 2, a problem with how `verb` was called, and how it is called.
pub(crate) fn wrong(verb: &str, problem: &str) -> ! {
    let mut command = command();
    // Only a built one knows its subcommands by their whole names.
    command.build();
    let verbs = verb.split(' ');
    let command = verbs.fold(&mut command, |command, verb| {
        command
            .find_subcommand_mut(verb)
            .expect("a verb names itself")
    });
    exit(&command.error(ErrorKind::ValueValidation, problem))
}

/// Ends the program: with 0 after help and version, which are data, and 2 after a mistake.
fn exit(error: &Error) -> ! {
    let text = error.render();
    let shown = |has_colors| match has_colors {
        true => text.ansi().to_string(),
        false => text.to_string(),
    };
    if error.use_stderr() {
        let text = without_secrets(&shown(console::stderr_has_colors()));
        console::say_colored(text.trim_end_matches('\n'));
    } else {
        // A reader that leaves early has read what it wanted of the help.
        let _ = console::write(shown(console::stdout_has_colors()).as_bytes());
    }
    console::flush();
    std::process::exit(error.exit_code())
}

/// `text` where the urls that it quotes from arguments and variables show no user names, passwords
/// and queries.
fn without_secrets(text: &str) -> String {
    let variables = std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        name.starts_with("HTTPPUBSUB_")
    });
    let given = std::env::args_os().chain(variables.map(|(_, value)| value));
    let mut text = text.to_owned();
    for given in given {
        let given = given.to_string_lossy();
        let value = match given.strip_prefix("--").and_then(|it| it.split_once('=')) {
            Some((_, value)) => value,
            None => &given,
        };
        if value.contains("://") {
            // clap quotes a value as it was given, so the text is searched for exactly that.
            text = text.replace(value, &redacted(value));
        }
    }
    text
}

/// `command` and all its subcommands, with [`with_variable`] applied to each argument.
fn prepared(command: Command) -> Command {
    command.mut_args(with_variable).mut_subcommands(prepared)
}

/// For each argument that a variable may give: an empty variable gives nothing, that of a flag may
/// be 1, 0, yes, no, on, off, true or false, and help does not show what it holds, which may be
/// secret.
fn with_variable(arg: Arg) -> Arg {
    let Some(name) = arg.get_env() else {
        return arg;
    };
    if std::env::var_os(name).is_some_and(|value| value.is_empty()) {
        return arg.env(Resettable::Reset);
    }
    let arg = arg.hide_env_values(true);
    match arg.get_action() {
        ArgAction::SetTrue => arg.value_parser(BoolishValueParser::new()),
        _ => arg,
    }
}

/// Parses what may hold a password: complaints do not quote it.
pub(crate) struct Unquoted<T>(PhantomData<fn() -> T>);

impl<T> Unquoted<T> {
    pub(crate) const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> Clone for Unquoted<T> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<T> TypedValueParser for Unquoted<T>
where
    T: FromStr<Err = String> + Any + Clone + Send + Sync,
{
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, Error> {
        let parsed = value.to_str().ok_or_else(|| "it is not UTF-8".to_owned());
        parsed.and_then(str::parse).map_err(|problem| {
            let name = arg.and_then(Arg::get_long).unwrap_or_default();
            let text = format!("the value of --{name} is of no use: {problem}");
            command.clone().error(ErrorKind::ValueValidation, text)
        })
    }
}
