//! Names that people give: of clusters, sites, zones, racks, nodes, pools, volumes.

/// Characters of the longest label.
pub const MAX_LABEL: usize = 63;

/// Text that is no label.
#[derive(Clone, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[error(
    "'{text}' is no name: {why}; a name has 1 to 63 letters, digits, '-', '_' or '.', and starts and ends \
     with a letter or digit"
)]
pub struct LabelError {
    /// What was given, shortened.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

/// Whether `text` may name something. The rule is that of Kubernetes' label values, and so keeps
/// path separators, spaces and control characters out of file names, logs and metrics.
///
/// # Errors
/// [`LabelError`] with the reason.
pub fn check_label(text: &str) -> Result<(), LabelError> {
    let bad = |why: String| {
        Err(LabelError {
            text: shorten(text),
            why,
        })
    };
    if text.is_empty() {
        return bad("it is empty".into());
    }
    let length = text.chars().count();
    if length > MAX_LABEL {
        return bad(format!("it has {length} characters"));
    }
    if let Some(c) = text
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !"-_.".contains(*c))
    {
        return bad(format!("it contains {c:?}"));
    }
    let ends_well = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    if !ends_well(text.bytes().next()) || !ends_well(text.bytes().last()) {
        return bad("it does not start and end with a letter or digit".into());
    }
    if text.contains("..") {
        return bad("it contains '..'".into());
    }
    Ok(())
}

/// At most 40 characters, printable, for a message.
pub(crate) fn shorten(text: &str) -> String {
    let mut short: String = text
        .chars()
        .take(40)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    if text.chars().nth(40).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_people_and_of_kubernetes_are_labels() {
        for good in [
            "a",
            "site-b",
            "pvc-0f9a6c0e-8f5b-4a53",
            "node_1.rack2",
            &"x".repeat(63),
        ] {
            assert_eq!(check_label(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_could_leave_a_directory_or_break_a_line_is_none() {
        let long = "x".repeat(300);
        for bad in [
            "", "../x", "a/b", "..", "a..b", "-a", "a-", ".a", "a b", "a\nb", "ä", "a=1", "*",
            &long,
        ] {
            assert!(check_label(bad).is_err(), "{bad:?}");
        }
        assert!(
            check_label(&long)
                .expect_err("too long")
                .to_string()
                .chars()
                .count()
                < 250
        );
    }
}
