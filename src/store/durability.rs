//! What an open volume promises of a power cut.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What survives a power cut, or a kill of the process, of what fsync acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// All of it, also while the same block is being overwritten.
    #[default]
    Strict,
    /// All of it, unless the same part of the file was being overwritten. For disks that die with
    /// the instance, where nobody comes back to read.
    Relaxed,
}

/// All there are.
const ALL: [Durability; 2] = [Durability::Strict, Durability::Relaxed];

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "strict",
            Self::Relaxed => "relaxed",
        })
    }
}

impl FromStr for Durability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        ALL.into_iter()
            .find(|durability| durability.to_string() == text)
            .ok_or_else(|| format!("{text:?} is no durability: wanted strict or relaxed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durabilities_survive_text() {
        for durability in ALL {
            assert_eq!(durability.to_string().parse(), Ok(durability));
        }
        assert!("lax".parse::<Durability>().unwrap_err().contains("strict or relaxed"));
    }
}
