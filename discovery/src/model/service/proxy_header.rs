//! The PROXY header that connections to a service's instances begin with.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A version of the PROXY protocol (HAProxy's `proxy-protocol.txt`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl ProxyVersion {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V1, Self::V2];

    /// The word in configuration, API and CLI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }

    /// The whole header of a connection that is opened for nobody else, such as a health check's:
    /// whoever accepts it takes the connection's own addresses.
    pub fn of_our_own(self) -> &'static [u8] {
        match self {
            Self::V1 => b"PROXY UNKNOWN\r\n",
            // Version 2 and the command LOCAL, no family, no length.
            Self::V2 => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
        }
    }
}

impl fmt::Display for ProxyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_version_is_its_word() {
        for version in ProxyVersion::ALL {
            let text = serde_json::to_string(&version).unwrap();
            assert_eq!(text, format!("\"{version}\""));
            assert_eq!(serde_json::from_str::<ProxyVersion>(&text).unwrap(), version);
        }
        assert!(serde_json::from_str::<ProxyVersion>("\"v3\"").is_err());
    }
}
