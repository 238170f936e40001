//! Any text at all, as an operator may paste it: it is refused with words, or is one token, and then it
//! is the very text that this token is written as. Compiled into the fuzz target of this name and into a
//! property test of `replication/net`.

use lockstep_net::JoinToken;

/// Checks `data` as text, and behind the right prefix.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    read(&text);
    let rest: String = text
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    read(&format!("lockstep1.{rest}"));
}

fn read(text: &str) {
    match text.parse::<JoinToken>() {
        Ok(token) => {
            let again = token.to_string();
            let shown = text.trim().to_ascii_lowercase();
            assert_eq!(again, shown, "but for its case, a token is canonical");
        }
        Err(refused) => assert!(refused.to_string().len() > 20, "refusals have words"),
    }
}
