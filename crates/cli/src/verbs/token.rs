//! `httppubsub token`.
//!
//! The file is changed by this verb, by an editor, or by what brings configuration to a machine; a
//! broadcaster reads it again within seconds. So this verb asks no broadcaster for anything, and
//! works before the first one was started.

use std::path::PathBuf;
use std::process::ExitCode;

use httppubsub_net::random_bytes;
use httppubsub_proto::plain::{NewRights, PlainToken, TopicRule};

use crate::console;
use crate::output;
use crate::tokens;

/// Make, list and remove tokens for publishing with nothing but HTTP.
///
/// A token is the right to use /v1/topics/ of a broadcaster, which reads the file within 5 s. Only
/// hashes are kept.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    TOKEN=$(httppubsub token add ci --publish 'builds/*')\n  \
    curl -H \"Authorization: Bearer $TOKEN\" --data-binary 'drop it' \\\n      \
    http://127.0.0.1:3003/v1/topics/builds/7\n  \
    httppubsub token list\n  \
    httppubsub token remove ci")]
pub(crate) struct Token {
    #[command(subcommand)]
    what: What,
}

/// One variant for each action.
#[derive(Debug, clap::Subcommand)]
enum What {
    Add(Add),
    List(List),
    Remove(Remove),
}

/// Make a token and print it, and nothing else, on stdout.
///
/// It is shown this once. A name that is there already gets a further token with the rights that
/// it has: add one, hand it out, remove the old one by its hash.
#[derive(Debug, clap::Args)]
struct Add {
    /// Name: 1 to 64 of A-Z, a-z, 0-9, `.`, `_` and `-`.
    name: String,

    /// Topic that may be published to; with a `*` at the end, all that begin so. May be repeated.
    #[arg(long, value_name = "TOPIC", allow_hyphen_values = true)]
    publish: Vec<TopicRule>,

    /// May publish to every topic, and whatever else the broadcaster lets anybody do.
    #[arg(long)]
    admin: bool,

    /// Time after which it is refused, such as 2027-01-01T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,

    #[command(flatten)]
    file: FileFlags,
}

/// List names, rights and hashes.
#[derive(Debug, clap::Args)]
struct List {
    /// Print a JSON object a line.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    file: FileFlags,
}

/// Remove a name with all its tokens, or one of them.
#[derive(Debug, clap::Args)]
struct Remove {
    /// Name.
    name: String,

    /// Only the token whose hash begins so; the last one takes the name with it.
    #[arg(long, value_name = "PREFIX")]
    hash: Option<String>,

    #[command(flatten)]
    file: FileFlags,
}

/// Where the tokens are: the same flags as those of `serve`.
#[derive(Debug, clap::Args)]
struct FileFlags {
    /// Tokens file. [default: tokens.json in the data folder]
    #[arg(long, value_name = "FILE", env = "HTTPPUBSUB_TOKENS")]
    tokens: Option<PathBuf>,

    /// Data folder of the broadcaster.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "./httppubsub-data",
        env = "HTTPPUBSUB_DATA"
    )]
    data: PathBuf,
}

impl FileFlags {
    /// The path of the file, which need not exist.
    fn path(&self) -> PathBuf {
        let named = self.tokens.clone();
        named.unwrap_or_else(|| self.data.join(tokens::FILE))
    }
}

impl Token {
    /// Does it. Nothing is changed if it cannot be done.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.what {
            What::Add(add) => add.run(),
            What::List(list) => list.run(),
            What::Remove(remove) => remove.run(),
        }
    }
}

impl Add {
    /// Prints the token after its hash is durable: one that was seen is one that works.
    fn run(self) -> anyhow::Result<ExitCode> {
        let (file, name) = (self.file.path(), self.name);
        let token = PlainToken::generate(&random_bytes());
        let rights = NewRights {
            publish: self.publish,
            is_admin: self.admin,
            expires: self.expires,
        };
        let is_nothing = rights == NewRights::default();
        tokens::change(&file, |tokens| {
            if is_nothing && !tokens.iter().any(|it| it.name() == name) {
                anyhow::bail!("{name} is new: give it rights by --publish TOPIC or --admin");
            }
            let added = tokens.add(&name, token.hash(), rights);
            added.map_err(|problem| anyhow::anyhow!("cannot add {name}: {problem}"))
        })?;
        output::line(token.as_str())?;
        console::say(format_args!(
            "Keep it: only its hash is in {}.",
            file.display()
        ));
        Ok(ExitCode::SUCCESS)
    }
}

impl List {
    /// A line for each name; hashes are cut for people, and whole in JSON.
    fn run(self) -> anyhow::Result<ExitCode> {
        for rights in tokens::read(&self.file.path())?.iter() {
            let publish: Vec<_> = rights.publish().iter().map(TopicRule::to_string).collect();
            let hashes: Vec<_> = rights.hashes().iter().map(ToString::to_string).collect();
            if self.json {
                output::json([
                    ("name", rights.name().into()),
                    ("publish", publish.into()),
                    ("admin", rights.is_admin().into()),
                    ("expires", rights.expires().into()),
                    ("sha256", hashes.into()),
                ])?;
                continue;
            }
            let mut words = vec![rights.name().to_owned()];
            words.extend(publish.iter().map(|topic| format!("publish {topic:?}")));
            words.extend(rights.is_admin().then(|| "admin".to_owned()));
            words.extend(rights.expires().map(|it| format!("until {it}")));
            words.extend(hashes.iter().map(|hash| format!("sha256 {}", &hash[..12])));
            if hashes.is_empty() {
                words.push("without a token".to_owned());
            }
            output::line(&words.join("\t"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Remove {
    /// What is removed is gone for good: of a token only its hash was there.
    fn run(self) -> anyhow::Result<ExitCode> {
        let name = self.name;
        tokens::change(&self.file.path(), |tokens| {
            let removed = tokens.remove(&name, self.hash.as_deref());
            removed.map_err(|problem| anyhow::anyhow!("cannot remove {name}: {problem}"))
        })?;
        console::say(format_args!("Removed; a broadcaster knows within 5 s."));
        Ok(ExitCode::SUCCESS)
    }
}
