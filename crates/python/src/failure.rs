//! Failures on their way to Python, where they become exceptions.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use httppubsub_client::{
    AttemptError, CloseError, ConfigError, NotifyError, RequestError, StartError, SubscribeError,
    UnsubscribeError,
};
use pyo3::prelude::*;
use pyo3::types::PyList;

/// An exception that is yet to be made.
#[derive(Debug)]
pub(crate) struct Failure {
    /// A class of `httppubsub._errors`.
    class: &'static str,
    message: String,
    errno: Option<i32>,
    attributes: Vec<(&'static str, Attribute)>,
    cause: Option<Box<Failure>>,
}

#[derive(Debug)]
enum Attribute {
    Text(String),
    Number(u64),
    Failures(Vec<Failure>),
}

impl Failure {
    pub(crate) fn new(class: &'static str, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            errno: None,
            attributes: Vec::new(),
            cause: None,
        }
    }

    /// A failure of a class that is an `OSError` as well.
    pub(crate) fn of_io(class: &'static str, what: &str, error: &io::Error) -> Self {
        let message = match what {
            "" => error.to_string(),
            what => format!("{what}: {error}"),
        };
        let errno = error.raw_os_error();
        Self {
            errno,
            ..Self::new(class, message)
        }
    }

    /// A panic of ours.
    pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Self {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
        let said = said.unwrap_or("it does not say why");
        let message = format!("a defect of httppubsub, please report it: {said}");
        Self::new("PubSubInternalError", message)
    }

    fn with(mut self, name: &'static str, attribute: Attribute) -> Self {
        self.attributes.push((name, attribute));
        self
    }

    fn because(mut self, cause: &AttemptError) -> Self {
        self.cause = Some(Box::new(Self::new("PubSubError", cause.to_string())));
        self
    }

    /// The exception.
    pub(crate) fn raise(self, py: Python<'_>) -> PyErr {
        self.exception(py).unwrap_or_else(|error| error)
    }

    fn exception(self, py: Python<'_>) -> PyResult<PyErr> {
        let class = py.import("httppubsub._errors")?.getattr(self.class)?;
        let exception = match self.errno {
            Some(errno) => class.call1((errno, self.message))?,
            None => class.call1((self.message,))?,
        };
        for (name, attribute) in self.attributes {
            match attribute {
                Attribute::Text(text) => exception.setattr(name, text)?,
                Attribute::Number(number) => exception.setattr(name, number)?,
                Attribute::Failures(failures) => {
                    let all = failures.into_iter().map(|it| it.raise(py).into_value(py));
                    exception.setattr(name, PyList::new(py, all.collect::<Vec<_>>())?)?;
                }
            }
        }
        let exception = PyErr::from_value(exception);
        if let Some(cause) = self.cause {
            exception.set_cause(py, Some(cause.raise(py)));
        }
        Ok(exception)
    }
}

/// Runs what Python asks for. A failure becomes its exception, and so does a panic: PyO3's own for
/// it is no `Exception`, so that a program's handlers would miss it.
pub(crate) fn guarded<T>(py: Python<'_>, work: impl FnOnce() -> Result<T, Failure>) -> PyResult<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|failure| failure.raise(py)),
        Err(panic) => Err(Failure::panicked(&*panic).raise(py)),
    }
}

/// Panics, for the test that a panic becomes an exception that programs catch.
#[pyfunction]
pub(crate) fn panic_on_purpose(py: Python<'_>) -> PyResult<()> {
    guarded(py, || panic!("on purpose"))
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        let message = error.to_string();
        let failure = match &error {
            RequestError::Refused { status, reason, .. } => {
                Self::new("RequestRefusedError", message)
                    .with("status", Attribute::Number(status.as_u16().into()))
                    .with("reason", Attribute::Text(reason.clone()))
            }
            RequestError::Ambiguous { cause, .. } => {
                Self::new("RequestAmbiguousError", message).because(cause)
            }
            RequestError::RetriesExhausted {
                last: AttemptError::Closed,
                ..
            } => Self::new("ClosedError", message),
            RequestError::RetriesExhausted { attempts, last, .. } => {
                Self::new("RequestRetriesExhaustedError", message)
                    .with("attempts", Attribute::Number((*attempts).into()))
                    .because(last)
            }
            RequestError::NotSent { .. } => Self::new("RequestNotSentError", message),
            RequestError::TooMany { max } => Self::new("TooManyNotificationsError", message)
                .with("max", Attribute::Number(max.get() as u64)),
            _ => Self::new("RequestError", message),
        };
        match error.broadcaster() {
            "" => failure,
            broadcaster => failure.with("broadcaster", Attribute::Text(broadcaster.to_owned())),
        }
    }
}

impl From<SubscribeError> for Failure {
    fn from(error: SubscribeError) -> Self {
        match error {
            SubscribeError::Request(error) => error.into(),
            SubscribeError::Topic(error) => Self::new("TopicTooLongError", error.to_string()),
            SubscribeError::Glob(error) => Self::new("GlobTooLongError", error.to_string()),
            SubscribeError::CannotReceive => Self::new("CannotReceiveError", error.to_string()),
            SubscribeError::Closed => Self::new("ClosedError", error.to_string()),
            _ => Self::new("PubSubError", error.to_string()),
        }
    }
}

impl From<UnsubscribeError> for Failure {
    fn from(error: UnsubscribeError) -> Self {
        match error {
            UnsubscribeError::Request(error) => error.into(),
            UnsubscribeError::Closed => Self::new("ClosedError", error.to_string()),
            _ => Self::new("PubSubError", error.to_string()),
        }
    }
}

impl From<NotifyError> for Failure {
    fn from(error: NotifyError) -> Self {
        let message = error.to_string();
        match error {
            NotifyError::Request(error) => error.into(),
            NotifyError::Topic(_) => Self::new("TopicTooLongError", message),
            NotifyError::Body(error) => Self {
                errno: error.raw_os_error(),
                ..Self::new("MessageReadError", message)
            },
            NotifyError::Length { .. } => Self::new("LengthMismatchError", message),
            NotifyError::Digest { .. } => Self::new("DigestMismatchError", message),
            NotifyError::Closed => Self::new("ClosedError", message),
            _ => Self::new("PubSubError", message),
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let message = error.to_string();
        match error {
            StartError::Bind { source, .. } => Self {
                errno: source.raw_os_error(),
                ..Self::new("BindError", message)
            },
            _ => Self::new("ConfigError", message),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new("ConfigError", error.to_string())
    }
}

impl From<CloseError> for Failure {
    fn from(error: CloseError) -> Self {
        let message = error.to_string();
        let unsubscribe = error.unsubscribe.into_iter().map(Self::from).collect();
        let connections = error.connections_cut_off as u64;
        Self::new("CloseError", message)
            .with("unsubscribe", Attribute::Failures(unsubscribe))
            .with("connections_cut_off", Attribute::Number(connections))
    }
}
