//! The names of the module `httppubsub._core`.

#[pyo3::pymodule(gil_used = true)]
mod _core {
    #[pymodule_export]
    use crate::body::{Body, BodySender};
    #[pymodule_export]
    use crate::bridge::Bridge;
    #[pymodule_export]
    use crate::client::{Client, start};
    #[pymodule_export]
    use crate::config::{AuthConfig, Config, WebSocket, auth_from_file};
    #[pymodule_export]
    use crate::failure::panic_on_purpose;
    #[pymodule_export]
    use crate::log::set_log_level;
    #[pymodule_export]
    use crate::message::SpooledBody;
    #[pymodule_export]
    use crate::queue::Operation;
    #[pymodule_export]
    use crate::statuses::Statuses;
    #[pymodule_export]
    use crate::subscription::Subscription;

    #[pymodule_export]
    #[allow(non_upper_case_globals, reason = "Python's name for it")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
