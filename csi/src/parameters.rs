//! What a StorageClass or a VolumeAttributesClass asks for, by name: checked in full before anything is
//! done, so that a word that means nothing here is never passed over.

use std::collections::HashMap;

use lockstep_api::proto::{FaultDomain, Locality, Policy, Rpo};
use tonic::Status;

/// What sidecars add about the claim; it changes nothing.
const EXTRA_METADATA: [&str; 8] = [
    "csi.storage.k8s.io/pvc/name",
    "csi.storage.k8s.io/pvc/namespace",
    "csi.storage.k8s.io/pv/name",
    "csi.storage.k8s.io/volumesnapshot/name",
    "csi.storage.k8s.io/volumesnapshot/namespace",
    "csi.storage.k8s.io/volumesnapshotcontent/name",
    "csi.storage.k8s.io/fstype",
    "csi.storage.k8s.io/volumeattributesclass/name",
];

/// Names of a class's parameters, as shown to whoever gave another one.
const KNOWN: &str =
    "replicas, sites, faultDomain, preferredSite, rpo, locality, encryption, allowWeaken";
/// The parameter, and the entry of a volume's context.
const ENCRYPTION: &str = "encryption";
/// LUKS2 above the device, with the key from the node-stage secret.
const LUKS2: &str = "luks2";
/// Of them, those that a VolumeAttributesClass may change.
const MUTABLE: &str = "replicas, sites, rpo, preferredSite";

/// The policy that a class asks for; where `mutable` says something else, that counts.
///
/// # Errors
/// INVALID_ARGUMENT with the name, the value and what would be valid.
pub fn policy(
    parameters: &HashMap<String, String>,
    mutable: &HashMap<String, String>,
) -> Result<Policy, Status> {
    let mut policy = Policy::default();
    read(&mut policy, parameters, false)?;
    read(&mut policy, mutable, true)?;
    Ok(policy)
}

/// The volume's context: what the node must know that the cluster does not. Whoever made the volume, its class says it
/// again each time.
pub fn context(parameters: &HashMap<String, String>) -> HashMap<String, String> {
    let is_encrypted = parameters.get(ENCRYPTION).is_some_and(|it| it == LUKS2);
    let entry = is_encrypted.then(|| (ENCRYPTION.to_owned(), LUKS2.to_owned()));
    entry.into_iter().collect()
}

/// Whether a volume's context says that it is encrypted.
///
/// # Errors
/// INVALID_ARGUMENT: it says something that this driver does not know.
pub fn is_encrypted(context: &HashMap<String, String>) -> Result<bool, Status> {
    match context.get(ENCRYPTION).map(String::as_str) {
        None | Some("none") => Ok(false),
        Some(LUKS2) => Ok(true),
        Some(other) => Err(invalid(ENCRYPTION, other, "one of none, luks2")),
    }
}

/// What a VolumeAttributesClass changes; what it does not name stays.
///
/// # Errors
/// As [`policy`].
pub fn change(mutable: &HashMap<String, String>) -> Result<Policy, Status> {
    policy(&HashMap::new(), mutable)
}

fn read(
    policy: &mut Policy,
    parameters: &HashMap<String, String>,
    only_mutable: bool,
) -> Result<(), Status> {
    if parameters.contains_key("replicas") && parameters.contains_key("sites") {
        return Err(Status::invalid_argument(
            "'replicas' and 'sites' contradict each other: give a number of copies, or say where they are",
        ));
    }
    // In one order, so that the same mistake always gives the same words.
    let mut names: Vec<&String> = parameters.keys().collect();
    names.sort();
    for name in names {
        let value = parameters[name].as_str();
        if only_mutable && !MUTABLE.split(", ").any(|it| it == name) {
            return Err(unknown(name, value, MUTABLE));
        }
        read_one(policy, name, value)?;
    }
    Ok(())
}

fn read_one(policy: &mut Policy, name: &str, value: &str) -> Result<(), Status> {
    let one_of = |valid: &[&str]| -> Result<usize, Status> {
        let place = valid.iter().position(|it| *it == value);
        place.ok_or_else(|| invalid(name, value, &format!("one of {}", valid.join(", "))))
    };
    match name {
        "replicas" => {
            one_of(&["1", "2", "3"])?;
            policy.copies = Some(value.to_owned());
        }
        "sites" => {
            let grammar: Result<lockstep_placement::Grammar, _> = value.parse();
            match grammar {
                // As volumes are shown, so that two ways to write one wish are the same wish.
                Ok(grammar) if value.contains('=') => policy.copies = Some(grammar.to_string()),
                Ok(_) => {
                    return Err(invalid(name, value, "copies a site, like a=2,b=1 or *=1"));
                }
                Err(error) => return Err(invalid(name, value, &error.to_string())),
            }
        }
        "faultDomain" => {
            let all = [
                FaultDomain::Site,
                FaultDomain::Zone,
                FaultDomain::Rack,
                FaultDomain::Node,
            ];
            policy.fault_domain = all[one_of(&["site", "zone", "rack", "node"])?].into();
        }
        "preferredSite" => match value {
            "" => policy.preferred_site = Some(String::new()),
            site => {
                let checked = lockstep_placement::check_label(site);
                checked.map_err(|error| invalid(name, value, &error.to_string()))?;
                policy.preferred_site = Some(site.to_owned());
            }
        },
        "rpo" => {
            let all = [Rpo::Strict, Rpo::WitnessedDegrade];
            policy.rpo = all[one_of(&["strict", "witnessed-degrade"])?].into();
        }
        "locality" => {
            let all = [Locality::Prefer, Locality::Require, Locality::None];
            policy.locality = all[one_of(&["prefer", "require", "none"])?].into();
        }
        "encryption" => {
            one_of(&["none", LUKS2])?;
        }
        "allowWeaken" if value != "false" => {
            let words = "'false': copies and rpo are lowered with 'lockstep volume policy' only";
            return Err(invalid(name, value, words));
        }
        "allowWeaken" => {}
        "iops" | "bandwidth" | "snapshotSchedule" => {
            return Err(invalid(name, value, "nothing: it is not served yet"));
        }
        extra if EXTRA_METADATA.contains(&extra) => {}
        _ => return Err(unknown(name, value, KNOWN)),
    }
    Ok(())
}

fn invalid(name: &str, value: &str, valid: &str) -> Status {
    let value = shown(value);
    Status::invalid_argument(format!(
        "parameter {name}: '{value}' is not valid; valid is {valid}"
    ))
}

fn unknown(name: &str, value: &str, known: &str) -> Status {
    let (name, value) = (shown(name), shown(value));
    Status::invalid_argument(format!(
        "parameter '{name}' (given as '{value}') is not known here; known are {known}"
    ))
}

/// What somebody else wrote, fit for a message.
fn shown(text: &str) -> String {
    text.chars().take(80).filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        let owned = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        owned.collect()
    }

    #[test]
    fn a_class_becomes_a_policy() {
        let class = map(&[
            ("sites", "a=2,b=1"),
            ("faultDomain", "rack"),
            ("rpo", "strict"),
            ("locality", "require"),
            ("csi.storage.k8s.io/pvc/name", "data"),
            ("encryption", "none"),
        ]);
        let read = policy(&class, &map(&[])).expect("valid");
        assert_eq!(read.copies.as_deref(), Some("a=2,b=1"));
        assert_eq!(read.fault_domain(), FaultDomain::Rack);
        assert_eq!(
            (read.rpo(), read.locality()),
            (Rpo::Strict, Locality::Require)
        );
        assert_eq!(
            policy(&map(&[]), &map(&[])).expect("valid"),
            Policy::default()
        );
    }

    #[test]
    fn encryption_goes_by_the_volumes_context() {
        let class = map(&[("encryption", "luks2"), ("replicas", "2")]);
        let told = context(&class);
        assert_eq!(told, map(&[("encryption", "luks2")]));
        assert!(is_encrypted(&told).expect("known"));
        for class in [map(&[]), map(&[("encryption", "none")])] {
            assert!(context(&class).is_empty());
            assert!(!is_encrypted(&context(&class)).expect("known"));
        }
        assert!(is_encrypted(&map(&[("encryption", "luks9")])).is_err());
        let refused = change(&map(&[("encryption", "none")]));
        assert!(refused.is_err(), "it stays as it was made");
    }

    #[test]
    fn mutable_parameters_win() {
        let read = policy(
            &map(&[("replicas", "2"), ("rpo", "strict")]),
            &map(&[("replicas", "3")]),
        );
        let read = read.expect("valid");
        assert_eq!(
            (read.copies.as_deref(), read.rpo()),
            (Some("3"), Rpo::Strict)
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases: [(&[(&str, &str)], &str); 9] = [
            (&[("replica", "2")], "'replica'"),
            (&[("replicas", "9")], "1, 2, 3"),
            (&[("sites", "a=x")], "sites"),
            (&[("sites", "2")], "a=2,b=1"),
            (&[("replicas", "2"), ("sites", "*=1")], "contradict"),
            (&[("rpo", "zero")], "witnessed-degrade"),
            (&[("encryption", "rot13")], "luks2"),
            (&[("iops", "100")], "not served yet"),
            (&[("preferredSite", "a b")], "preferredSite"),
        ];
        for (pairs, word) in cases {
            let refused = policy(&map(pairs), &map(&[])).expect_err("refused");
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(refused.message().contains(word), "{}", refused.message());
        }
        let refused = change(&map(&[("locality", "none")])).expect_err("not mutable");
        assert!(refused.message().contains(MUTABLE), "{}", refused.message());
    }
}
