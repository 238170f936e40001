//! Arguments that several commands take: names and sizes, refused in words before anything is asked.

use lockstep_api::wish;
use lockstep_node::label::{self, LabelError};
use lockstep_node::units::Size;

/// The name of a volume, or its id.
///
/// # Errors
/// Nothing can be called so.
pub fn volume(text: &str) -> Result<String, LabelError> {
    named("volume", text)
}

/// The name of a node, or its id.
///
/// # Errors
/// Nothing can be called so.
pub fn node(text: &str) -> Result<String, LabelError> {
    named("node", text)
}

/// The name of a pool, or its id.
///
/// # Errors
/// Nothing can be called so.
pub fn pool(text: &str) -> Result<String, LabelError> {
    named("pool", text)
}

/// The id of a replica, or the node that it is on.
///
/// # Errors
/// Nothing can be called so.
pub fn replica(text: &str) -> Result<String, LabelError> {
    named("replica", text)
}

/// The name of a site; empty for none.
///
/// # Errors
/// Nothing can be called so.
pub fn site_or_none(text: &str) -> Result<String, LabelError> {
    if text.is_empty() {
        return Ok(String::new());
    }
    named("site", text)
}

/// The size of a volume.
///
/// # Errors
/// No size, 0, no multiple of 4096, or more than a volume can have.
pub fn volume_size(text: &str) -> Result<Size, String> {
    let size: Size = text.parse().map_err(|error| format!("{error}"))?;
    if size.0 == 0 {
        return Err(
            "a volume of 0 bytes holds nothing; give a multiple of 4096 bytes, like 10GiB".into(),
        );
    }
    match wish::blocks(size.0) {
        Ok(_) => Ok(size),
        Err(status) => Err(status.message().to_owned()),
    }
}

/// Ids are 32 hexadecimal digits, so that whatever can name a thing covers them.
fn named(what: &'static str, text: &str) -> Result<String, LabelError> {
    label::check(what, text).map(|()| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_paths_are_refused_in_words() {
        for bad in ["", "../pg", "a/b", "Pg", "pg "] {
            let error = volume(bad).expect_err(bad).to_string();
            assert!(
                error.contains("cannot name a volume") && error.contains("63"),
                "{error}"
            );
        }
        for long in [64, 300] {
            let error = volume(&"x".repeat(long)).expect_err("too long").to_string();
            assert!(
                error.contains(&long.to_string()) && error.contains("63") && error.len() < 200,
                "the length is what is wrong, so it is told instead of the name: {error}"
            );
        }
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(volume(id).as_deref(), Ok(id));
        assert_eq!(site_or_none("").as_deref(), Ok(""));
        assert!(site_or_none("..").is_err());
    }

    #[test]
    fn sizes_of_volumes_are_strict() {
        assert_eq!(volume_size("10GiB"), Ok(Size(10 << 30)));
        assert_eq!(volume_size("4096"), Ok(Size(4096)));
        for (bad, words) in [
            ("0", "4096"),
            ("0GiB", "4096"),
            ("4097", "the next is 8192"),
            ("10GB", "powers of 1024"),
            ("ten", "whole number"),
            ("1.5GiB", "whole number"),
            ("1025TiB", "1 PiB"),
            ("99999999999TiB", "whole number"),
            ("18446744073709551615", "1 PiB"),
        ] {
            let error = volume_size(bad).expect_err(bad);
            assert!(error.contains(words), "{bad}: {error}");
        }
    }
}
