//! Names typed before a rule is overridden.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::bail;

use crate::output::Output;

/// What has to be typed.
#[derive(Clone, Copy, Debug)]
pub struct Typed<'a> {
    /// In words.
    pub what: &'a str,
    /// It.
    pub expected: &'a str,
    /// The option that gives it where nobody can be asked.
    pub option: &'a str,
}

/// What was typed: given by the option, or else asked for at the terminal.
///
/// # Errors
/// It is something else, or nobody can be asked. Nothing has been done then.
pub fn typed(given: Option<String>, wanted: &Typed<'_>, output: &Output) -> anyhow::Result<String> {
    let given = match given {
        Some(given) => Some(given),
        None if !output.is_json() && std::io::stdin().is_terminal() => Some(asked(
            wanted,
            &mut std::io::stdin().lock(),
            &mut std::io::stderr().lock(),
        )?),
        None => None,
    };
    check(given, wanted)
}

fn asked(
    wanted: &Typed<'_>,
    answers: &mut impl BufRead,
    questions: &mut impl Write,
) -> anyhow::Result<String> {
    write!(questions, "Type the {} to go on: ", wanted.what)?;
    questions.flush()?;
    let mut line = String::new();
    answers.read_line(&mut line)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

fn check(given: Option<String>, wanted: &Typed<'_>) -> anyhow::Result<String> {
    let Typed {
        what,
        expected,
        option,
    } = wanted;
    match given {
        Some(given) if given == *expected => Ok(given),
        Some(given) => bail!("'{given}' is not the {what}, '{expected}': nothing was done"),
        None => bail!(
            "this overrides the rules of safety and wants the {what} typed: add {option} {expected}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: Typed<'static> = Typed {
        what: "volume's name",
        expected: "pg",
        option: "--confirm",
    };

    #[test]
    fn only_the_name_itself_goes_on() {
        assert_eq!(check(Some("pg".into()), &NAME).expect("confirmed"), "pg");
        for wrong in ["", "PG", "pg ", "yes"] {
            let error = check(Some(wrong.into()), &NAME)
                .expect_err(wrong)
                .to_string();
            assert!(error.ends_with("nothing was done"), "{error}");
        }
        let error = check(None, &NAME).expect_err("nobody typed").to_string();
        assert!(error.contains("--confirm pg"), "{error}");
    }

    #[test]
    fn a_terminal_is_asked() {
        let mut questions = Vec::new();
        let answer = asked(&NAME, &mut &b"pg\r\nmore\n"[..], &mut questions).expect("answered");
        assert_eq!(answer, "pg");
        assert_eq!(questions, b"Type the volume's name to go on: ");
        let ended = asked(&NAME, &mut &b""[..], &mut Vec::new()).expect("read");
        assert!(check(Some(ended), &NAME).is_err());
    }
}
