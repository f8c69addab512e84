//! The text of every public error names its causes down to the last one, once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use httppubsub::broadcaster::{ReplayGuardError, SecretsFileError, StartError, StoreError};
use httppubsub::client::{
    AttemptError, CloseError, ConfigError, NotifyError, PostError, RequestError, SubscribeError,
    UnsubscribeError,
};
use httppubsub_net::error_chain;
use syn::{
    Attribute, Fields, GenericArgument, Item, PathArguments, Type, TypeParamBound, Visibility,
};

const CRATES: [&str; 5] = ["proto", "store", "net", "broadcaster", "client"];

/// An error of the public API: a struct, or one variant of an enum.
struct Declared {
    name: String,
    attributes: Vec<Attribute>,
    fields: Fields,
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
}

fn derives_error(attributes: &[Attribute]) -> bool {
    let derives = attributes.iter().filter(|it| it.path().is_ident("derive"));
    let mut lists = derives.filter_map(|it| it.meta.require_list().ok());
    lists.any(|it| it.tokens.to_string().contains("thiserror"))
}

fn declared() -> Vec<Declared> {
    let mut declared = Vec::new();
    for name in CRATES {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
        let mut files = Vec::new();
        collect(&source.join("src"), &mut files);
        for file in files {
            let syntax = syn::parse_file(&fs::read_to_string(&file).unwrap()).unwrap();
            for item in syntax.items {
                match item {
                    Item::Struct(it) if is_public(&it.vis) && derives_error(&it.attrs) => {
                        declared.push(Declared {
                            name: format!("{name}: {}", it.ident),
                            attributes: it.attrs,
                            fields: it.fields,
                        });
                    }
                    Item::Enum(it) if is_public(&it.vis) && derives_error(&it.attrs) => {
                        let of = it.ident;
                        declared.extend(it.variants.into_iter().map(|it| Declared {
                            name: format!("{name}: {of}::{}", it.ident),
                            attributes: it.attrs,
                            fields: it.fields,
                        }));
                    }
                    _ => {}
                }
            }
        }
    }
    declared
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// `true` if values of this type are errors with a text of their own.
fn is_error(of: &Type, names: &BTreeSet<String>) -> bool {
    let Type::Path(of) = of else { return false };
    let last = of.path.segments.last().unwrap();
    if names.contains(&last.ident.to_string()) || last.ident == "Error" {
        return true;
    }
    let PathArguments::AngleBracketed(inner) = &last.arguments else {
        return false;
    };
    // `Box<dyn Error + Send + Sync>`
    inner.args.iter().any(|it| match it {
        GenericArgument::Type(Type::TraitObject(object)) => object.bounds.iter().any(|bound| {
            let TypeParamBound::Trait(it) = bound else {
                return false;
            };
            it.path.segments.last().unwrap().ident == "Error"
        }),
        _ => false,
    })
}

#[test]
fn every_public_error_is_declared_with_its_cause_in_its_text() {
    let all = declared();
    assert!(all.len() >= 100, "{}", all.len());
    let names: BTreeSet<String> = all
        .iter()
        .map(|it| it.name.split(": ").nth(1).unwrap())
        .map(|it| it.split("::").next().unwrap().to_owned())
        .collect();
    assert!(names.len() >= 40, "{names:?}");
    let mut wrong = Vec::new();
    for it in &all {
        let text = it.attributes.iter().find(|it| it.path().is_ident("error"));
        let text = text.unwrap_or_else(|| panic!("{} has no text", it.name));
        let text = text.meta.require_list().unwrap().tokens.to_string();
        if text == "transparent" {
            continue;
        }
        for (at, field) in it.fields.iter().enumerate() {
            let name = match &field.ident {
                Some(name) => name.to_string(),
                None => at.to_string(),
            };
            let attributes = field.attrs.iter().map(Attribute::path);
            let is_source = attributes.fold(false, |is, path| {
                is || path.is_ident("source") || path.is_ident("from")
            });
            if is_source || name == "source" {
                wrong.push(format!("{}: {name} is a source beside the text", it.name));
            }
            let name = name.trim_start_matches("r#");
            let said = [
                format!("{{{name}}}"),
                format!("{{{name}:"),
                format!("{name})"),
            ];
            let spaced = text.replace(". ", ".").replace("r#", "");
            if is_error(&field.ty, &names) && !said.iter().any(|it| spaced.contains(it)) {
                wrong.push(format!("{}: {name} is not in the text {text}", it.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// An error of the world outside that does not name its own cause, as those of databases do.
#[derive(Debug)]
struct Outer(io::Error);

impl std::fmt::Display for Outer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("outer")
    }
}

impl Error for Outer {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

fn inner() -> io::Error {
    io::Error::other("the innermost cause")
}

fn post() -> PostError {
    let endpoint = httppubsub_proto::url::Endpoint::parse_str("http://b:1/").unwrap();
    PostError::Connect {
        origin: endpoint.origin().clone(),
        r#source: io::Error::other(Outer(inner())),
    }
}

fn request() -> RequestError {
    RequestError::Ambiguous {
        broadcaster: "http://b:1".to_owned(),
        cause: AttemptError::Post(post()),
    }
}

fn store() -> StoreError {
    StoreError::Unavailable {
        doing: "subscribe",
        r#source: Box::new(Outer(inner())),
    }
}

#[test]
fn what_is_printed_ends_with_the_innermost_cause_and_repeats_nothing() {
    let config = || {
        let builder = httppubsub::ClientConfig::builder(["http://127.0.0.1:3003"]);
        builder
            .secrets_file("/nowhere/secrets")
            .build()
            .unwrap_err()
    };
    let file = || -> SecretsFileError { httppubsub::auth::read_secrets("/nowhere").unwrap_err() };
    let exhausted = RequestError::RetriesExhausted {
        attempts: 2,
        broadcaster: "http://b:1".to_owned(),
        last: AttemptError::Post(post()),
    };
    let folder = || PathBuf::from("/folder");
    let innermost = "the innermost cause";
    let missing = "No such file or directory (os error 2)";
    let errors: Vec<(Box<dyn Error>, &str)> = vec![
        (Box::new(post()), innermost),
        (Box::new(request()), innermost),
        (Box::new(exhausted), innermost),
        (Box::new(NotifyError::from(request())), innermost),
        (
            Box::new(NotifyError::Body(io::Error::other(Outer(inner())))),
            innermost,
        ),
        (Box::new(SubscribeError::from(request())), innermost),
        (Box::new(UnsubscribeError::from(request())), innermost),
        (Box::new(store()), innermost),
        (Box::new(StartError::from(store())), innermost),
        (
            Box::new(StartError::Spool {
                folder: folder(),
                r#source: inner(),
            }),
            innermost,
        ),
        (
            Box::new(StartError::Identity {
                folder: folder(),
                r#source: inner(),
            }),
            innermost,
        ),
        (Box::new(file()), missing),
        (Box::new(StartError::from(file())), missing),
        (Box::<ConfigError>::new(config()), missing),
        (
            Box::new(httppubsub::client::StartError::from(config())),
            missing,
        ),
    ];
    for (error, last) in errors {
        let text = error.to_string();
        assert!(text.ends_with(last), "{text}");
        assert_eq!(text.matches(last).count(), 1, "{text}");
        // Reports that append causes have nothing to append.
        assert_eq!(error_chain(&*error), text);
        assert_eq!(format!("{error:#}"), text);
        assert!(error.source().is_none(), "{text}");
    }
}

#[test]
fn errors_can_be_sent_to_other_threads() {
    fn check<T: Error + Send + Sync + 'static>() {}
    check::<RequestError>();
    check::<NotifyError>();
    check::<CloseError>();
    check::<StartError>();
    check::<StoreError>();
    check::<ReplayGuardError>();
}
