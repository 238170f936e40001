//! Rust sources as a linter wants them: with comments and literals blanked, tests apart, functions
//! found. It reads well-formed, rustfmt-formatted code; it is no compiler.

use crate::workspace::root;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One file.
#[derive(Debug)]
pub struct Source {
    /// From the root of the workspace.
    pub path: String,
    /// As it is.
    pub text: String,
    /// As long as the text, line by line: comments and the inside of literals are blanks.
    pub code: String,
    /// As `code`, with everything under `#[cfg(test)]` blank too; all blank in a file of tests.
    pub product: String,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// From 1.
    pub line: usize,
    /// From the line of `fn` to that of the last brace.
    pub lines: usize,
}

/// All Rust files of the project, by path.
///
/// # Panics
/// If one cannot be read.
pub fn sources() -> Vec<Source> {
    let root = root();
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    files
        .iter()
        .map(|file| {
            let path = file.strip_prefix(&root).expect("found under the root");
            let text = fs::read_to_string(file)
                .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            Source::new(path.to_str().expect("paths are ASCII"), text)
        })
        .collect()
}

impl Source {
    /// A file of that path and text.
    pub fn new(path: &str, text: String) -> Self {
        let code = without_comments_and_literals(&text);
        let product = match is_file_of_tests(path) {
            true => blank(&code),
            false => without_tests(&code),
        };
        Self {
            path: path.to_string(),
            text,
            code,
            product,
        }
    }

    /// Whether it lies under a directory.
    pub fn is_under(&self, directory: &Path) -> bool {
        root().join(&self.path).starts_with(directory)
    }

    /// Lines that are not tests: with code, comment or nothing on them.
    pub fn length(&self) -> usize {
        if is_file_of_tests(&self.path) {
            return 0;
        }
        let lines = self.code.lines().zip(self.product.lines());
        lines
            .filter(|(code, product)| code.trim().is_empty() || !product.trim().is_empty())
            .count()
    }

    /// Functions outside tests.
    pub fn functions(&self) -> Vec<Function> {
        words(&self.product, "fn")
            .filter_map(|at| function_at(&self.product, at))
            .collect()
    }
}

/// Where `word` stands in `code` as a path or word of its own.
pub fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| {
            let before = code[..*at].chars().next_back();
            let after = code[at + word.len()..].chars().next();
            let free = |edge: Option<char>, neighbour: Option<char>| {
                !(edge.is_some_and(part_of_word) && neighbour.is_some_and(part_of_word))
            };
            free(word.chars().next(), before) && free(word.chars().next_back(), after)
        })
}

/// The line of an offset, from 1.
pub fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the workspace can be listed") {
        let path = entry.expect("the workspace can be listed").path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            collect(&path, files);
        } else if name.ends_with(".rs") && path.is_file() {
            files.push(path);
        }
    }
}

/// `tests/NAME/src` are crates; `src/…/tests.rs`, `CRATE/tests/` and `CRATE/benches/` are tests.
fn is_file_of_tests(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let inside = |part: &&str| ["tests", "benches", "checks"].contains(part);
    parts.iter().skip(1).any(inside) || parts.last() == Some(&"tests.rs")
}

/// Same length in lines, nothing but blanks.
fn blank(text: &str) -> String {
    text.chars()
        .map(|c| if c == '\n' { '\n' } else { ' ' })
        .collect()
}

fn without_comments_and_literals(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let skipped = skipped_at(bytes, at);
        if skipped.is_empty() {
            let c = text[at..].chars().next().expect("inside the text");
            // Only literals and comments hold other letters; blanks keep the offsets.
            code.extend(std::iter::repeat_n(
                if c.is_ascii() { c } else { ' ' },
                c.len_utf8(),
            ));
            at += c.len_utf8();
        } else {
            code.push_str(&text[at..skipped.start]);
            code.extend(
                text[skipped.clone()]
                    .bytes()
                    .map(|b| if b == b'\n' { '\n' } else { ' ' }),
            );
            at = skipped.end;
        }
    }
    code
}

/// The comment, or the inside of a literal, that starts at an offset.
fn skipped_at(bytes: &[u8], at: usize) -> Range<usize> {
    let rest = &bytes[at..];
    let part_of_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let fresh = at == 0 || !part_of_word(bytes[at - 1]);
    match rest {
        [b'/', b'/', ..] => at..at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => at..at + block_comment(rest),
        [b'"', ..] => at + 1..at + 1 + string(&rest[1..]),
        [b'r', b'"' | b'#', ..] if fresh => {
            raw_string(rest, 1).map_or(0..0, |r| at + r.start..at + r.end)
        }
        [b'b', b'r', b'"' | b'#', ..] if fresh => {
            raw_string(rest, 2).map_or(0..0, |r| at + r.start..at + r.end)
        }
        [b'\'', b'\\', ..] => {
            at + 1..at + 3 + rest[3..].iter().position(|b| *b == b'\'').unwrap_or(0) + 1
        }
        [b'\'', ..] => {
            // A lifetime has no closing quote one character on.
            let length = std::str::from_utf8(&rest[1..rest.len().min(5)])
                .or_else(|error| std::str::from_utf8(&rest[1..1 + error.valid_up_to()]))
                .ok()
                .and_then(|text| text.chars().next())
                .map_or(1, char::len_utf8);
            match rest.get(1 + length) {
                Some(b'\'') => at + 1..at + 2 + length,
                _ => 0..0,
            }
        }
        _ => 0..0,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at + 1 < rest.len() {
        match &rest[at..at + 2] {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// Bytes of a string after its opening quote, with its closing one.
fn string(rest: &[u8]) -> usize {
    let mut at = 0;
    while at < rest.len() && rest[at] != b'"' {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn raw_string(rest: &[u8], prefix: usize) -> Option<Range<usize>> {
    let hashes = rest[prefix..].iter().take_while(|b| **b == b'#').count();
    let start = prefix + hashes;
    if rest.get(start) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.extend(std::iter::repeat_n(b'#', hashes));
    let inside = rest[start + 1..]
        .windows(close.len())
        .position(|window| window == close);
    Some(start..inside.map_or(rest.len(), |at| start + 1 + at + close.len()))
}

fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut product = code.to_string();
    let mut from = 0;
    while let Some(at) = product[from..].find(MARK).map(|at| from + at) {
        let end = item_end(&product, at + MARK.len());
        let blanks = blank(&product[at..end]);
        product.replace_range(at..end, &blanks);
        from = end;
    }
    product
}

/// Where the item after an attribute ends: at its semicolon or its last brace.
fn item_end(code: &str, from: usize) -> usize {
    let mut depth = 0i32;
    for (at, b) in code.bytes().enumerate().skip(from) {
        match b {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' => depth -= 1,
            b'}' => {
                depth -= 1;
                if depth <= 0 {
                    return at + 1;
                }
            }
            b';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

fn function_at(code: &str, at: usize) -> Option<Function> {
    let after = code[at + 2..].trim_start();
    let name: String = after
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    if name.is_empty() {
        return None;
    }
    let end = item_end(code, at);
    if !code[at..end].ends_with('}') {
        return None;
    }
    let line = line_of(code, at);
    Some(Function {
        name,
        line,
        lines: line_of(code, end - 1) - line + 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blank() {
        let text =
            "a /* x /* y */ z */ b // c\n\"d\\\" e\" r#\"f \" g\"# 'h' '\\'' <'i> b\"j\" 'ä' k";
        let code = without_comments_and_literals(text);
        assert_eq!(code.len(), text.len());
        let left: String = code.chars().filter(|c| c.is_alphabetic()).collect();
        assert_eq!(left, "abribk");
    }

    #[test]
    fn tests_are_apart_and_functions_are_measured() {
        let text = "fn a() {\n    b();\n}\n#[cfg(test)]\nmod tests {\n    fn c() {}\n}\nfn d();\npub const fn e(x: [u8; 2]) -> u8 { x[0] }\n";
        let source = Source::new("engine/x/src/lib.rs", text.into());
        let found: Vec<_> = source
            .functions()
            .into_iter()
            .map(|f| (f.name, f.line, f.lines))
            .collect();
        assert_eq!(found, [("a".into(), 1, 3), ("e".into(), 9, 1)]);
        assert_eq!(source.length(), 5);
        assert!(source.code.contains("fn c()"));
        assert_eq!(
            Source::new("engine/x/tests/y.rs", text.into()).functions(),
            []
        );
        assert_eq!(
            Source::new("tests/sim/src/world.rs", text.into())
                .functions()
                .len(),
            2
        );
    }

    #[test]
    fn words_are_whole() {
        let code = "Instant InstantX MyInstant x.Instant std::fs std::fsx .unwrap() .unwrap_or()";
        assert_eq!(words(code, "Instant").count(), 2);
        assert_eq!(words(code, "std::fs").count(), 1);
        assert_eq!(words(code, ".unwrap()").count(), 1);
    }
}
