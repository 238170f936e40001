//! Errors on their way to the caller: a gRPC code, words for people, and under
//! [`METADATA`] a code for programs that never changes its meaning.

use lockstep_control::Rejected;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// The metadata key of the stable code.
pub const METADATA: &str = "lockstep-code";

/// No volume, node, pool or replica is called so.
pub const NOT_FOUND: &str = "not-found";
/// The request itself is wrong.
pub const INVALID: &str = "invalid";
/// Nothing was done; asking again may help.
pub const UNAVAILABLE: &str = "unavailable";
/// It may have been done; look before asking again.
pub const UNKNOWN: &str = "unknown-outcome";
/// The caller's certificate does not allow it.
pub const FORBIDDEN: &str = "forbidden";
/// A confirmation is missing or names something else.
pub const UNCONFIRMED: &str = "unconfirmed";

/// A status with its stable code.
///
/// # Panics
/// If `stable` is not lower-case ASCII: stable codes are written in sources.
pub fn status(code: Code, stable: &'static str, words: impl Into<String>) -> Status {
    let mut status = Status::new(code, words);
    status
        .metadata_mut()
        .insert(METADATA, MetadataValue::from_static(stable));
    status
}

/// The stable code of a status; none if it is not from a Lockstep daemon.
pub fn stable_code(status: &Status) -> Option<&str> {
    status.metadata().get(METADATA)?.to_str().ok()
}

/// Nothing is called so.
pub fn not_found(what: &str, name: &str) -> Status {
    let name: String = name.chars().take(80).filter(|c| !c.is_control()).collect();
    status(
        Code::NotFound,
        NOT_FOUND,
        format!("there is no {what} '{name}'; 'lockstep {what} list' shows what there is"),
    )
}

/// The request is wrong whatever the state.
pub fn invalid(words: impl Into<String>) -> Status {
    status(Code::InvalidArgument, INVALID, words)
}

/// A refusal by the rules of the control state.
pub fn rejected(rejected: &Rejected) -> Status {
    status(code_of(rejected), rejected.code(), rejected.to_string())
}

/// The gRPC code of a refusal, as CSI reads them: what another node may satisfy is
/// RESOURCE_EXHAUSTED, what must change first is FAILED_PRECONDITION, what a race caused is ABORTED.
pub const fn code_of(rejected: &Rejected) -> Code {
    match rejected {
        Rejected::NoVolume { .. }
        | Rejected::NoNode { .. }
        | Rejected::NoPool { .. }
        | Rejected::NoReplica { .. }
        | Rejected::NoTombstone { .. } => Code::NotFound,
        Rejected::NameTaken { .. } | Rejected::ClusterExists { .. } | Rejected::IdUsed { .. } => {
            Code::AlreadyExists
        }
        Rejected::Bad { .. } | Rejected::Shrink { .. } | Rejected::PolicyNotMet { .. } => {
            Code::InvalidArgument
        }
        Rejected::NoRoom { .. } | Rejected::NoPlace { .. } | Rejected::Limit { .. } => {
            Code::ResourceExhausted
        }
        Rejected::Placement(refusal) => code_of_refusal(refusal),
        Rejected::Conflict { .. } | Rejected::NotReady { .. } | Rejected::Deleting => Code::Aborted,
        Rejected::Token | Rejected::VoterBarred { .. } => Code::PermissionDenied,
        // The rest stands against the state as it is: something must change first.
        _ => Code::FailedPrecondition,
    }
}

/// Why copies cannot be placed.
pub fn unplaced(refusal: &lockstep_placement::Refusal) -> Status {
    status(code_of_refusal(refusal), "placement", refusal.to_string())
}

/// RESOURCE_EXHAUSTED is what makes a Kubernetes scheduler try another node.
const fn code_of_refusal(refusal: &lockstep_placement::Refusal) -> Code {
    use lockstep_placement::Refusal;
    match refusal {
        Refusal::UnknownSite { .. }
        | Refusal::TooManyCopies { .. }
        | Refusal::Contradiction { .. } => Code::InvalidArgument,
        Refusal::NoSites | Refusal::TooFew(_) | Refusal::Local { .. } => Code::ResourceExhausted,
        Refusal::Satisfied | Refusal::UnknownNode { .. } => Code::FailedPrecondition,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_types::VolumeId;

    #[test]
    fn a_refusal_carries_words_and_a_stable_code() {
        let status = rejected(&Rejected::Attached { node: "a1".into() });
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(stable_code(&status), Some("attached"));
        assert!(status.message().contains("'a1'"));
        let status = rejected(&Rejected::NoVolume {
            volume: VolumeId::from_u128(1),
        });
        assert_eq!(
            (status.code(), stable_code(&status)),
            (Code::NotFound, Some("no-volume"))
        );
    }

    #[test]
    fn names_in_errors_are_harmless() {
        let status = not_found("volume", &format!("x\n{}", "y".repeat(300)));
        assert!(status.message().len() < 200 && !status.message().contains('\n'));
        assert_eq!(stable_code(&Status::internal("foreign")), None);
    }
}
