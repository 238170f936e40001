//! Names: what Kubernetes calls a volume, as a label of ours; and ids, which are the only thing that a
//! call names an existing volume by.

use aws_lc_rs::digest::{SHA256, digest};
use lockstep_placement::check_label;
use lockstep_types::VolumeId;
use tonic::Status;

/// Bytes of a name in CSI, at most.
const MAX_NAME: usize = 128;
/// Characters of a name that stay readable where it cannot be a label as it is.
const READABLE: usize = 28;

/// The volume's label for a name of CSI: the same where that is a label, otherwise what is readable of it and
/// a digest of all of it. The same name always gives the same label, different ones different labels.
///
/// # Errors
/// INVALID_ARGUMENT if it is empty or longer than CSI allows.
pub fn label(name: &str) -> Result<String, Status> {
    if name.is_empty() {
        return Err(Status::invalid_argument("the volume's name is missing"));
    }
    if name.len() > MAX_NAME {
        let words = format!(
            "the name has {} bytes; at most {MAX_NAME} are allowed",
            name.len()
        );
        return Err(Status::invalid_argument(words));
    }
    // An id would be taken for that volume.
    if check_label(name).is_ok() && id(name).is_none() {
        return Ok(name.to_owned());
    }
    let readable = name.chars().filter(char::is_ascii_alphanumeric);
    let readable: String = readable.take(READABLE).collect();
    let digest = digest(&SHA256, name.as_bytes());
    let digest = digest.as_ref().iter().take(16);
    let digest: String = digest.map(|byte| format!("{byte:02x}")).collect();
    Ok(match readable.as_str() {
        "" => format!("x-{digest}"),
        readable => format!("{readable}-{digest}"),
    })
}

/// A volume's id; none if the text is no id of ours. Names are not taken: they can be given again.
pub fn id(text: &str) -> Option<VolumeId> {
    text.parse().ok()
}

/// Looks whether a call names a volume at all.
///
/// # Errors
/// INVALID_ARGUMENT.
pub fn given_id(text: &str) -> Result<(), Status> {
    match text {
        "" => Err(Status::invalid_argument("the volume's id is missing")),
        _ => Ok(()),
    }
}

/// The id that a call names.
///
/// # Errors
/// INVALID_ARGUMENT if it is missing, NOT_FOUND if it is none of ours.
pub fn known_id(text: &str) -> Result<VolumeId, Status> {
    given_id(text)?;
    id(text).ok_or_else(|| {
        let shown: String = text.chars().take(80).filter(|c| !c.is_control()).collect();
        Status::not_found(format!("'{shown}' is no volume of this cluster"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_labels_and_differ() {
        let plain = "pvc-4d8a2c1e-0000-4000-8000-000000000001";
        assert_eq!(label(plain).expect("a label"), plain);
        let long = "v".repeat(MAX_NAME);
        let odd = [
            "a/b",
            "a b",
            "ä",
            "-",
            "x".repeat(64).as_str(),
            &long,
            "a/c",
        ]
        .map(str::to_owned);
        let labels = odd
            .clone()
            .map(|name| label(&name).expect("any name has one"));
        for (name, made) in odd.iter().zip(&labels) {
            assert_eq!(check_label(made), Ok(()), "{name} became {made}");
            assert_eq!(label(name).expect("again"), *made);
        }
        let mut sorted = labels.to_vec();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), odd.len());
    }

    #[test]
    fn a_name_that_looks_like_an_id_is_not_taken_for_one() {
        let name = VolumeId::from_u128(7).to_string();
        let made = label(&name).expect("a label");
        assert!(id(&made).is_none() && made != name, "{made}");
    }

    #[test]
    fn empty_and_endless_names_are_refused() {
        for name in [String::new(), "v".repeat(MAX_NAME + 1)] {
            let code = label(&name).expect_err("refused").code();
            assert_eq!(code, tonic::Code::InvalidArgument);
        }
        assert_eq!(
            known_id("").expect_err("missing").code(),
            tonic::Code::InvalidArgument
        );
        assert_eq!(
            known_id("pg").expect_err("no id").code(),
            tonic::Code::NotFound
        );
    }
}
