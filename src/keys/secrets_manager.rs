//! A customer's own key in Secrets Manager: 32 bytes as `SecretBinary`, or their base64 as
//! `SecretString`.

use aws_sdk_secretsmanager::Client;
use data_encoding::BASE64;
use zeroize::{Zeroize, Zeroizing};

use crate::cipher::Secret;
use crate::keys::call::{Call, GET_SECRET_VALUE};
use crate::keys::context::Context;
use crate::keys::error::KeyError;
use crate::keys::file::KEY_LEN;
use crate::keys::notes::KmsNotes;

/// The key in the secret, by one `GetSecretValue` of its current version, at most 25 s.
pub(super) fn get(arn: &str, context: &Context<'_>, notes: &KmsNotes) -> Result<Secret, KeyError> {
    let call = Call::new(GET_SECRET_VALUE, arn, context).noting(notes);
    let found = call.run(async |call, config| {
        let request = Client::new(&config).get_secret_value().secret_id(arn);
        let mut answer = request.send().await.map_err(|error| call.failed(&error))?;
        let text = answer.secret_string.take();
        let binary = answer.secret_binary.take().map(|blob| Zeroizing::new(blob.into_inner()));
        Ok(match (binary, text) {
            (Some(bytes), _) => key(bytes),
            (None, Some(text)) => of_text(text),
            (None, None) => Err("neither SecretBinary nor SecretString".to_owned()),
        })
    })?;
    found.map_err(|found| KeyError::Secret { arn: arn.to_owned(), found })
}

fn of_text(text: String) -> Result<Secret, String> {
    let text = Zeroizing::new(text);
    let decoded = BASE64.decode(text.trim().as_bytes()).map(Zeroizing::new);
    // The error of the decoder would tell a part of it.
    key(decoded.map_err(|_| "a SecretString that is not base64".to_owned())?)
}

fn key(mut bytes: Zeroizing<Vec<u8>>) -> Result<Secret, String> {
    let length = bytes.len();
    if length == KEY_LEN && bytes.iter().all(|byte| *byte == 0) {
        return Err("32 zero bytes".to_owned());
    }
    let secret = Secret::take(&mut bytes);
    bytes.zeroize();
    secret.ok_or_else(|| format!("{length} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_32_bytes_or_their_base64_and_errors_do_not_hold_it() {
        let bytes = *b"0123456789abcdef0123456789abcdef";
        assert_eq!(key(Zeroizing::new(bytes.to_vec())).unwrap().expose(), &bytes);
        let text = BASE64.encode(&bytes);
        for text in [text.clone(), format!(" {text}\n")] {
            assert_eq!(of_text(text).unwrap().expose(), &bytes);
        }
        for (text, found) in [
            ("0123456789abcdef0123456789abcdef!", "not base64"),
            ("{\"key\":\"x\"}", "not base64"),
            ("", "0 bytes"),
            (&text[..40], "30 bytes"),
        ] {
            let error = of_text(text.to_owned()).unwrap_err();
            assert!(error.contains(found) && !error.contains("0123"), "{error}");
        }
        assert!(key(Zeroizing::new(vec![0; 32])).unwrap_err().contains("zero"));
    }
}
