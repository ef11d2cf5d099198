//! Roles: which paths the platform documents for what kind of container or instance.
//!
//! | role                         | paths                                 | key if none is named |
//! |------------------------------|---------------------------------------|----------------------|
//! | `notebook`                   | `/home/ec2-user/SageMaker`            | `local`              |
//! | `processing`                 | `/opt/ml/processing`, `/tmp`          | `transient`          |
//! | `training`, `batch`, `endpoint` | `/opt/ml`, `/tmp`                  | `transient`          |
//!
//! Each path is a directory of one volume, and lies below a root that stands for `/`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::lifecycle::Durability;
use crate::lifecycle::metrics::Watched;
use crate::lifecycle::request::{KernelOptions, MountRequest, NewVolume};
use crate::lifecycle::session::Point;
use crate::limits::{
    CACHE_BYTES_DEFAULT, KEY_MAX_OFFLINE_DEFAULT, KEY_RECHECK_DEFAULT, OPEN_DIRS_DEFAULT,
};

/// What a container or instance is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A notebook instance.
    Notebook,
    /// A processing job.
    Processing,
    /// A training job.
    Training,
    /// A batch transform job.
    Batch,
    /// An endpoint's container.
    Endpoint,
}

/// All roles.
const ROLES: [Role; 5] =
    [Role::Notebook, Role::Processing, Role::Training, Role::Batch, Role::Endpoint];

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Notebook => "notebook",
            Self::Processing => "processing",
            Self::Training => "training",
            Self::Batch => "batch",
            Self::Endpoint => "endpoint",
        })
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        ROLES.into_iter().find(|role| role.to_string() == text).ok_or_else(|| {
            let known = ROLES.map(|role| role.to_string()).join(", ");
            format!("{text:?} is no role; wanted one of {known}")
        })
    }
}

/// Directories that a training container expects below `/opt/ml`. `code` and
/// `output/intermediate` are missing on purpose: the platform's toolkit takes them, when they are
/// there, for its own work done.
const ML_DIRS: &[&str] = &["input/config", "input/data", "model", "output/data", "checkpoints"];

impl Role {
    /// Documented paths, relative to the root, with the mode of each.
    fn paths(self) -> &'static [(&'static str, u32)] {
        match self {
            Self::Notebook => &[("home/ec2-user/SageMaker", 0o755)],
            Self::Processing => &[("opt/ml/processing", 0o755), ("tmp", 0o1777)],
            Self::Training | Self::Batch | Self::Endpoint => &[("opt/ml", 0o755), ("tmp", 0o1777)],
        }
    }

    /// Whether the volume's life ends with the container's.
    pub fn is_ephemeral(self) -> bool {
        self != Self::Notebook
    }
}

/// A role, and where its paths and store are.
#[derive(Clone, Debug)]
pub struct Place {
    /// The role.
    pub role: Role,
    /// What stands for `/`: absolute.
    pub root: PathBuf,
    /// Directory of the store: absolute.
    pub store: PathBuf,
}

/// Name of a path's directory in the volume: `opt-ml` for `opt/ml`.
fn subdir(path: &str) -> String {
    path.replace('/', "-")
}

impl Place {
    /// Where the role's volume is, unless it is named: one store a role below the root.
    ///
    /// # Errors
    /// A root that is not there.
    pub fn new(role: Role, root: &Path, store: Option<&Path>) -> std::io::Result<Self> {
        let root = root.canonicalize()?;
        let default = || root.join("var/lib/cmkfs").join(role.to_string());
        let store = store.map_or_else(|| Ok(default()), std::path::absolute)?;
        // As the kernel will list it, also if it is still to be made.
        let store = match (store.canonicalize(), store.parent(), store.file_name()) {
            (Ok(real), ..) => real,
            (_, Some(parent), Some(name)) => {
                parent.canonicalize().map_or_else(|_| store.clone(), |parent| parent.join(name))
            }
            _ => store,
        };
        Ok(Self { role, root, store })
    }

    /// What to mount where. `key` replaces the role's own key source.
    pub fn request(&self, key: Option<&str>) -> MountRequest {
        let points = self.role.paths().iter().map(|(path, mode)| Point {
            mountpoint: self.root.join(path),
            subdir: subdir(path),
            mode: *mode,
        });
        let ml = self.role.paths().iter().find(|(path, _)| *path == "opt/ml");
        let dirs = ml
            .into_iter()
            .flat_map(|(path, _)| ML_DIRS.iter().map(move |dir| format!("{}/{dir}", subdir(path))));
        let own = if self.role.is_ephemeral() { "transient" } else { "local" };
        let dies = self.role.is_ephemeral() || key.unwrap_or(own) == "transient";
        MountRequest {
            store: self.store.clone(),
            points: points.collect(),
            key: key.map(str::to_owned),
            output_key: None,
            make: Some(NewVolume { key: own.to_owned(), dirs: dirs.collect() }),
            cache_bytes: CACHE_BYTES_DEFAULT,
            threads: None,
            open_dirs: OPEN_DIRS_DEFAULT,
            durability: if dies { Durability::Relaxed } else { Durability::Strict },
            key_recheck: KEY_RECHECK_DEFAULT,
            key_max_offline: KEY_MAX_OFFLINE_DEFAULT,
            read_only: false,
            kernel: KernelOptions::usual(),
            watched: Watched::default(),
        }
    }

    /// What the command is told of its paths. No credentials: those are its own.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        let at = |path: &str| self.root.join(path).into_os_string();
        let mut pairs = vec![("CMKFS_ROOT", self.root.clone().into_os_string())];
        if self.role.is_ephemeral() {
            pairs.push(("SAGEMAKER_BASE_DIR", at("opt/ml")));
            pairs.push(("TMPDIR", at("tmp")));
        }
        if matches!(self.role, Role::Training | Role::Batch | Role::Endpoint) {
            pairs.extend([
                ("SM_MODEL_DIR", at("opt/ml/model")),
                ("SM_OUTPUT_DIR", at("opt/ml/output")),
                ("SM_OUTPUT_DATA_DIR", at("opt/ml/output/data")),
                ("SM_INPUT_DIR", at("opt/ml/input")),
                ("SM_INPUT_CONFIG_DIR", at("opt/ml/input/config")),
            ]);
        }
        if self.role == Role::Training {
            pairs.push(("SM_CHANNEL_TRAIN", at("opt/ml/input/data/train")));
        }
        pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_survive_text() {
        for role in ROLES {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        assert!("trainer".parse::<Role>().unwrap_err().contains("training, batch"));
    }

    #[test]
    fn paths_lie_below_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let place = Place::new(Role::Training, &root, None).unwrap();
        assert_eq!(place.store, root.join("var/lib/cmkfs/training"));
        let request = place.request(None);
        let points: Vec<_> =
            request.points.iter().map(|point| (&*point.mountpoint, &*point.subdir)).collect();
        let wanted = [(&*root.join("opt/ml"), "opt-ml"), (&*root.join("tmp"), "tmp")];
        assert_eq!(points, wanted);
        assert_eq!(request.make.unwrap().key, "transient");
        let environment = place.environment();
        assert!(
            environment
                .contains(&("SM_CHANNEL_TRAIN", root.join("opt/ml/input/data/train").into()))
        );
        let notebook = Place::new(Role::Notebook, &root, None).unwrap();
        assert_eq!(notebook.request(None).make.unwrap().key, "local");
        assert_eq!(notebook.environment().len(), 1);
    }

    #[test]
    fn what_ends_with_its_instance_or_its_key_is_relaxed() {
        let dir = tempfile::tempdir().unwrap();
        for role in ROLES {
            let place = Place::new(role, dir.path(), None).unwrap();
            let strict = |key| place.request(key).durability == Durability::Strict;
            assert_eq!(strict(None), role == Role::Notebook, "{role}");
            assert_eq!(strict(Some("local")), role == Role::Notebook, "{role}");
            assert!(!strict(Some("transient")), "{role}");
        }
    }
}
