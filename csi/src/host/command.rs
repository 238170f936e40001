//! Running a tool of the host: what it says is kept for the error, and it may not take for ever.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::HostError;

/// Bytes of a tool's words that are kept, from their end.
const KEPT: usize = 600;

/// What a tool said, and how it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Said {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// On its standard output.
    pub output: String,
    /// On both, for people.
    pub words: String,
}

/// Runs a tool to its end.
///
/// # Errors
/// It cannot be started, or takes longer than `patience`; it is killed then.
pub async fn run(tool: &str, arguments: &[&str], patience: Duration) -> Result<Said, HostError> {
    run_with(tool, arguments, &[], patience).await
}

/// As [`run`], with this on its standard input: what no other process may see.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    tool: &str,
    arguments: &[&str],
    input: &[u8],
    patience: Duration,
) -> Result<Said, HostError> {
    let running = async {
        let mut child = Command::new(tool)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env("LC_ALL", "C")
            .kill_on_drop(true)
            .spawn()?;
        let mut stdin = child.stdin.take();
        let write = async {
            if let Some(stdin) = &mut stdin {
                // A tool that does not want it may have closed it.
                let _ = stdin.write_all(input).await;
            }
            drop(stdin);
        };
        let (output, ()) = tokio::join!(child.wait_with_output(), write);
        output
    };
    let ended = tokio::time::timeout(patience, running).await;
    let ended = ended.map_err(|_| {
        HostError::failed(
            format!("run {tool}"),
            format!("it has not ended in {patience:?}"),
        )
    })?;
    let output = ended.map_err(|error| {
        HostError::failed(format!("run {tool}"), format!("{error}; is it installed?"))
    })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    Ok(Said {
        code: output.status.code(),
        words: last(&format!("{said}\n{complained}")),
        output: said,
    })
}

/// As [`run`], of a tool whose only good end is 0.
///
/// # Errors
/// As [`run`], and any other end.
pub async fn succeed(
    tool: &str,
    arguments: &[&str],
    patience: Duration,
) -> Result<Said, HostError> {
    let said = run(tool, arguments, patience).await?;
    match said.code {
        Some(0) => Ok(said),
        code => {
            let code = code.map_or_else(|| "a signal".to_owned(), |code| format!("code {code}"));
            let what = format!("run {tool}, which ended with {code}");
            Err(HostError::failed(what, said.words))
        }
    }
}

/// The end of a text, on one line.
fn last(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let text = lines.collect::<Vec<_>>().join("; ");
    let mut from = text.len().saturating_sub(KEPT);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text[from..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn words_and_codes_are_kept() {
        let said = run("sh", &["-c", "echo good; echo bad >&2; exit 3"], SOON).await;
        let said = said.expect("it runs");
        assert_eq!((said.code, said.output.as_str()), (Some(3), "good"));
        assert_eq!(said.words, "good; bad");
        let failed = succeed("sh", &["-c", "echo why >&2; exit 3"], SOON).await;
        let words = failed.expect_err("it fails").to_string();
        assert!(words.contains("code 3") && words.contains("why"), "{words}");
    }

    #[tokio::test]
    async fn a_tool_reads_what_it_is_given() {
        let said = run_with("cat", &[], b"between us", SOON)
            .await
            .expect("it runs");
        assert_eq!(said.output, "between us");
        let much = vec![b'x'; 1 << 20];
        let said = run_with("true", &[], &much, SOON).await.expect("it runs");
        assert_eq!(
            said.code,
            Some(0),
            "one that does not read it ends all the same"
        );
    }

    #[tokio::test]
    async fn what_is_missing_or_endless_is_said() {
        let missing = run("no-such-tool-here", &[], SOON)
            .await
            .expect_err("missing");
        assert!(missing.to_string().contains("installed"), "{missing}");
        let endless = run("sleep", &["1000"], Duration::from_millis(50)).await;
        assert!(
            endless
                .expect_err("endless")
                .to_string()
                .contains("not ended")
        );
    }
}
