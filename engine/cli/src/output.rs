//! What commands print: tables for people, one JSON document for programs.

use std::io::Write;

use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Of every command.
#[derive(Args)]
pub struct OutputOptions {
    /// How results are printed
    #[arg(
        short = 'o',
        long = "output",
        value_enum,
        default_value = "table",
        global = true
    )]
    output: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// For programs: one document on standard output
    Json,
}

/// Where results go.
pub struct Output {
    format: Format,
}

/// A row of a table.
pub trait Row: Serialize {
    /// Titles of the columns.
    const COLUMNS: &'static [&'static str];

    /// One cell a column.
    fn cells(&self) -> Vec<String>;
}

impl Output {
    /// As the options ask.
    pub fn new(options: &OutputOptions) -> Self {
        Self {
            format: options.output,
        }
    }

    /// Whether programs read it.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// A list: a table, or an array.
    pub fn list<T: Row>(&self, rows: &[T]) -> anyhow::Result<()> {
        match self.format {
            Format::Json => self.json(&rows),
            Format::Table => print(&table(rows)),
        }
    }

    /// One result: `text` for people, `value` for programs.
    pub fn one(&self, value: &impl Serialize, text: &str) -> anyhow::Result<()> {
        match self.format {
            Format::Json => self.json(value),
            Format::Table => print(text),
        }
    }

    /// An error, to standard error; for programs an object.
    pub fn error(&self, error: &anyhow::Error) {
        let mut text = error.to_string();
        for cause in error.chain().skip(1) {
            let cause = cause.to_string();
            if !text.contains(&cause) {
                text = format!("{text}: {cause}");
            }
        }
        if self.is_json() {
            eprintln!("{}", serde_json::json!({ "error": text }));
        } else {
            eprintln!("error: {text}");
        }
    }

    fn json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        print(&serde_json::to_string_pretty(value)?)
    }
}

/// Rows as lines for people, under their titles.
pub fn table<T: Row>(rows: &[T]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(T::COLUMNS);
    for row in rows {
        table.add_row(row.cells());
    }
    let lines = table.to_string();
    let trimmed: Vec<&str> = lines.lines().map(str::trim_end).collect();
    trimmed.join("\n")
}

/// A flag in a table.
pub fn yes(flag: bool) -> String {
    if flag { "yes" } else { "no" }.into()
}

/// Prints a line; a reader that has gone (`| head`) is no error.
pub fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
