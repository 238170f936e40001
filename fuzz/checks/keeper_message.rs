//! Any bytes at all, as they may come to the keeper of descriptors, or from it: no message, or one that
//! can be given back as it came. Compiled into the fuzz target of this name and into a property test of
//! `engine/keeper`.

use lockstep_keeper::{MAX_KEY, MAX_TEXT, parse};

/// Checks `data` as a message.
pub fn check(data: &[u8]) {
    let Ok((verb, key, text)) = parse(data) else {
        return;
    };
    assert!(key.len() <= MAX_KEY && text.len() <= MAX_TEXT);
    assert!(!verb.contains(['\n', ' ']) && !key.contains(['\n', ' ']));
    // An entry is given back under its key, with its text.
    let back = [format!("entry {key}\n").as_bytes(), text].concat();
    assert_eq!(parse(&back), Ok(("entry", key, text)));
}
