//! Why a command was not done.

use portolan_discovery::store::StoreError;

/// Why a command was not done. Nothing of it was.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommandError {
    /// What it speaks of is not there. What belongs to an app is named `APP/NAME`.
    #[error("there is no {what} \"{name}\"")]
    NotFound {
        /// The kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// Other writers were faster, again and again.
    #[error("{what} \"{name}\" keeps being changed by others")]
    Conflict {
        /// The kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// Somebody else writes this record.
    #[error("{what} \"{name}\" belongs to {owner}")]
    Owned {
        /// The kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
        /// Who may change it.
        owner: String,
    },
    /// Another route has the listener, which leads to one only.
    #[error("{listener} has the route \"{route}\"")]
    Taken {
        /// The listener.
        listener: String,
        /// The route.
        route: String,
    },
    /// It can never be done as it was asked for.
    #[error("{field}: {cause}")]
    Invalid {
        /// The part that is wrong.
        field: String,
        /// What is wrong with it.
        cause: String,
        /// What to write instead; may be empty.
        hint: String,
    },
    /// A record that it builds on cannot be read.
    #[error("record {key} cannot be read: {cause}")]
    Unreadable {
        /// The key.
        key: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The store did not do it, or whether it did is not known.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl CommandError {
    /// For programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not_found",
            Self::Conflict { .. }
            | Self::Owned { .. }
            | Self::Taken { .. }
            | Self::Unreadable { .. } => "conflict",
            Self::Invalid { .. } | Self::Store(StoreError::Refused(_)) => "invalid",
            Self::Store(StoreError::Unavailable(_) | StoreError::NoLease(_)) => "unavailable",
        }
    }

    /// What to do next; may be empty.
    pub fn hint(&self) -> String {
        match self {
            Self::NotFound { what: what @ ("app" | "service" | "route" | "instance"), .. } => {
                format!("`portolan {what}s` lists those that are there")
            }
            Self::NotFound { what: "certificate", .. } => {
                "`portolan certs` lists those that are there".to_owned()
            }
            // Names of what belongs to an app begin with the app's.
            Self::NotFound { what: "release" | "process type", name } => match name.split_once('/')
            {
                Some((app, _)) => format!("`portolan apps {app}` shows those that are there"),
                None => String::new(),
            },
            Self::NotFound { .. } => String::new(),
            Self::Conflict { .. } => "try again".to_owned(),
            Self::Taken { .. } => "leave the choice to the router with port 0".to_owned(),
            Self::Owned { owner, .. } => format!("change it where it is written: {owner}"),
            Self::Invalid { hint, .. } => hint.clone(),
            Self::Unreadable { .. } => {
                "a later version may have written it: run that version, or delete the record"
                    .to_owned()
            }
            Self::Store(StoreError::Refused(_)) => String::new(),
            Self::Store(_) => {
                "the data plane serves on; send the same command again when the store is back"
                    .to_owned()
            }
        }
    }

    /// Whether the same call may go through later. Sending it twice does no harm.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Conflict { .. } => true,
            Self::Store(error) => error.is_retryable(),
            _ => false,
        }
    }
}

pub(super) fn invalid(field: &str, cause: impl Into<String>, hint: &str) -> CommandError {
    CommandError::Invalid { field: field.to_owned(), cause: cause.into(), hint: hint.to_owned() }
}
