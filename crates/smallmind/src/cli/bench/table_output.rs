//! `-o` of the verbs that measure whole models.

use clap::{Args, ValueEnum};
use smallmind::bench::{TableFormat, TableWriter, Tabled};

use crate::cli::settings::Settings;

/// `-o`.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct TableOutput {
    /// How the record is written [default: a table; json with --json]
    #[arg(short = 'o', long = "output", value_enum, value_name = "FORMAT")]
    form: Option<Form>,
}

/// Forms of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A Markdown table
    Md,
    /// An array of objects
    Json,
    /// An object a line
    Jsonl,
    /// Comma-separated values
    Csv,
    /// Statements that make and fill a table
    Sql,
}

impl TableOutput {
    pub(super) fn writer<R: Tabled>(self, settings: &Settings) -> TableWriter<R> {
        TableWriter::new(match self.form {
            Some(Form::Md) => TableFormat::Markdown,
            Some(Form::Json) => TableFormat::Json,
            Some(Form::Jsonl) => TableFormat::JsonLines,
            Some(Form::Csv) => TableFormat::Csv,
            Some(Form::Sql) => TableFormat::Sql,
            None if settings.is_json() => TableFormat::Json,
            None => TableFormat::Text,
        })
    }
}
