//! For tests: texts that another version of this daemon reads, frozen.

/// Compares what is written now with what is out there, and says what to do.
///
/// # Panics
/// If they differ.
#[track_caller]
pub(crate) fn assert_frozen(what: &str, now: &str, frozen: &str) {
    assert_eq!(
        now, frozen,
        "{what} is written otherwise than before, and nodes in the field have the old text. Undo the change; or, if \
         it is meant, write the new text only where everybody who reads it knows it, keep a reader for the old one, \
         and freeze the new one beside it (CONTRIBUTING.md, 'A new message or a new format'). There is no third way"
    );
}

/// What came of reading a text that is out there.
///
/// # Panics
/// If it was refused.
#[track_caller]
pub(crate) fn read<T, E: std::fmt::Display>(what: &str, result: Result<T, E>) -> T {
    result.unwrap_or_else(|why| {
        panic!(
            "{what}: a text that nodes in the field have is refused ({why}); keep a reader for it"
        )
    })
}
