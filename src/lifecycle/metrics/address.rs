//! Where metrics are served: on this machine alone.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const UNIX: &str = "unix:";
const LOCALHOST: &str = "localhost:";

/// An address of the loopback interface, or a socket in the file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    /// Address and port; 0 for one that is free.
    Tcp(SocketAddr),
    /// Path of the socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const WANTED: &str = "wanted 127.0.0.1:PORT, [::1]:PORT or unix:PATH";
        if let Some(path) = text.strip_prefix(UNIX).filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        let no_address = || format!("{text} is no address for metrics: {WANTED}");
        let address: SocketAddr = match text.strip_prefix(LOCALHOST) {
            Some(port) => (Ipv4Addr::LOCALHOST, port.parse().map_err(|_| no_address())?).into(),
            None => text.parse().map_err(|_| no_address())?,
        };
        if !address.ip().is_loopback() {
            return Err(format!(
                "{text} can be reached from other machines, and whoever asks there is not asked \
                 who it is: {WANTED}; a collector elsewhere needs an agent here that passes them on"
            ));
        }
        Ok(Self::Tcp(address))
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl Address {
    /// The same for a process whose working directory is another.
    ///
    /// # Errors
    /// The system's, where this process has no working directory.
    pub fn absolute(self) -> io::Result<Self> {
        match self {
            Self::Unix(path) => std::path::absolute(path).map(Self::Unix),
            address @ Self::Tcp(_) => Ok(address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_can_be_named() {
        for text in ["127.0.0.1:9464", "127.8.9.1:0", "[::1]:80", "unix:/run/x", "unix:x y"] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(Address::try_from(String::from(address.clone())), Ok(address));
        }
        assert_eq!("localhost:7".parse::<Address>().unwrap().to_string(), "127.0.0.1:7");
        for text in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:127.0.0.1]:1", "[fe80::1]:1"] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(
                error.contains("other machines") && error.contains("127.0.0.1:PORT"),
                "{error}"
            );
        }
        for text in ["", "9464", "127.0.0.1", "unix:", "example.com:1", "localhost:", "http://x"] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains("no address") && error.contains("unix:PATH"), "{error}");
        }
    }
}
