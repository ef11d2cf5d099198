//! `key policy`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::fail::Fail;
use crate::cli::show;
use crate::keys::{self, Context, KeyError, KeySource, PolicyWish, Principal, Purpose};
use crate::lifecycle::VerbError;
use crate::lifecycle::locate::{describe, locate};

const POLICY_HELP: &str = "\
Prints {\"key_policy\", \"identity_policy\"}. The statements of key_policy are to be added to \
those that the policy of the KMS key has: alone they would shut out whoever manages the key. \
identity_policy is for the role; in the account of the key one of the two is enough, across \
accounts both are needed. Without VOLUME they are for every volume under the key. To rewrap \
where one of the two keys can't re-encrypt, kms:Decrypt of the one and kms:Encrypt of the other \
are needed instead.";

#[derive(Debug, Args)]
#[command(after_help = POLICY_HELP)]
pub(in crate::cli) struct PolicyArgs {
    /// A store or a mountpoint: only its encryption context is allowed
    volume: Option<PathBuf>,
    /// ARN of the role, or of a session of it
    #[arg(long, value_name = "ARN")]
    role: Option<Principal>,
    /// Some of init, mount, rewrap, grant and output; by default init and mount, of a volume mount
    #[arg(long = "for", value_name = "PURPOSE,...", value_delimiter = ',')]
    purposes: Vec<Purpose>,
    /// The KMS key, kms:ARN; by default those of the volume's slots
    #[arg(long, value_name = "SOURCE")]
    key: Option<String>,
}

pub(in crate::cli) fn policy(arguments: &PolicyArgs) -> Result<(), Fail> {
    let descriptor = match &arguments.volume {
        Some(volume) => Some(describe(&locate(volume)?.store)?.1),
        None => None,
    };
    let named = arguments.key.as_deref().map(of_key).transpose().map_err(VerbError::Key)?;
    let keys = match (&named, &descriptor) {
        (Some(key), _) => vec![key.clone()],
        (None, None) => Vec::new(),
        (None, Some(descriptor)) => {
            let slots = descriptor.slots.iter().filter(|slot| slot.provider == "kms");
            let keys = slots.map(|slot| slot.key.clone()).filter(|key| keys::is_key_arn(key));
            keys.collect()
        }
    };
    if let (true, Some(descriptor)) = (keys.is_empty(), &descriptor) {
        let slots = descriptor.slots.iter().map(|slot| format!("{}:{}", slot.provider, slot.key));
        let found = slots.collect::<Vec<_>>().join(", ");
        let wanted = "kms".to_owned();
        return Err(VerbError::Key(KeyError::NoSlot { wanted, found }).into());
    }
    let usual: &[Purpose] = match descriptor {
        Some(_) => &[Purpose::Mount],
        None => &[Purpose::Init, Purpose::Mount],
    };
    let volume = descriptor
        .as_ref()
        .map(|found| Context { volume_id: found.volume_id, pairs: &found.context });
    show::json(&keys::policies(&PolicyWish {
        principal: arguments.role.as_ref(),
        purposes: if arguments.purposes.is_empty() { usual } else { &arguments.purposes },
        keys: &keys,
        volume,
    }))
}

fn of_key(typed: &str) -> Result<String, KeyError> {
    keys::policy_key(&typed.parse::<KeySource>()?)
}
