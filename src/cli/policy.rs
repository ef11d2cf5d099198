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
accounts both are needed. To grant takes mount too, since the volume is opened before. Of a secret \
key_policy is for the KMS key that the secret is under; none is needed for aws/secretsmanager. \
Without VOLUME they are for every volume under the key. Where \
one of two keys can't re-encrypt, to rewrap takes kms:Decrypt of the old and kms:Encrypt of the \
new one instead.";

#[derive(Debug, Args)]
#[command(after_help = POLICY_HELP)]
pub(in crate::cli) struct PolicyArgs {
    /// A store or a mountpoint: only its encryption context is allowed
    volume: Option<PathBuf>,
    /// ARN of the role, or of a session of it
    #[arg(long, value_name = "ARN")]
    role: Option<Principal>,
    /// Some of init, mount, add, rotate, rewrap, grant, secret and output; by default init and
    /// mount, of a volume mount
    #[arg(long = "for", value_name = "PURPOSE,...", value_delimiter = ',')]
    purposes: Vec<Purpose>,
    /// The KMS key, kms:ARN, or the secret, secretsmanager:ARN; by default those of the slots
    #[arg(long, value_name = "SOURCE")]
    key: Option<String>,
}

pub(in crate::cli) fn policy(arguments: &PolicyArgs) -> Result<(), Fail> {
    let descriptor = match &arguments.volume {
        Some(volume) => Some(describe(&locate(volume)?.store)?.1),
        None => None,
    };
    let slots = descriptor.iter().flat_map(|descriptor| &descriptor.slots);
    let mut secrets: Vec<String> = slots
        .filter(|slot| slot.provider == keys::SECRETS_MANAGER && keys::is_secret_arn(&slot.key))
        .map(|slot| slot.key.clone())
        .collect();
    let mut named = None;
    match arguments.key.as_deref().map(str::parse::<KeySource>).transpose() {
        Err(error) => return Err(VerbError::Key(error).into()),
        Ok(Some(KeySource::SecretsManager(arn))) => secrets = vec![arn],
        Ok(Some(source)) => named = Some(keys::policy_key(&source).map_err(VerbError::Key)?),
        Ok(None) => {}
    }
    let keys = match (&named, &descriptor) {
        (Some(key), _) => vec![key.clone()],
        (None, None) => Vec::new(),
        (None, Some(descriptor)) => {
            let slots = descriptor.slots.iter().filter(|slot| slot.provider == "kms");
            let keys = slots.map(|slot| slot.key.clone()).filter(|key| keys::is_key_arn(key));
            keys.collect()
        }
    };
    if let (true, Some(descriptor)) = (keys.is_empty() && secrets.is_empty(), &descriptor) {
        let slots = descriptor.slots.iter().map(|slot| format!("{}:{}", slot.provider, slot.key));
        let found = slots.collect::<Vec<_>>().join(", ");
        let wanted = "kms".to_owned();
        return Err(VerbError::Key(KeyError::NoSlot { wanted, found }).into());
    }
    let usual: &[Purpose] = match descriptor {
        Some(_) if keys.is_empty() => &[Purpose::Secret],
        Some(_) => &[Purpose::Mount],
        None if !secrets.is_empty() => &[Purpose::Secret],
        None => &[Purpose::Init, Purpose::Mount],
    };
    let volume = descriptor
        .as_ref()
        .map(|found| Context { volume_id: found.volume_id, pairs: &found.context });
    show::json(&keys::policies(&PolicyWish {
        principal: arguments.role.as_ref(),
        purposes: if arguments.purposes.is_empty() { usual } else { &arguments.purposes },
        keys: &keys,
        secrets: &secrets,
        volume,
    }))
}
