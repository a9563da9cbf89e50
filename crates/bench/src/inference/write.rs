//! The records as text. All forms that programs read have the fields of the rows, in their order; CSV and SQL leave out
//! the samples.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::row::{BatchedRow, InferenceRow};
use crate::format::quoted;

/// How a record is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InferenceFormat {
    /// Columns for a terminal.
    Text,
    /// A Markdown table.
    Markdown,
    /// An array of objects.
    Json,
    /// One object a line.
    JsonLines,
    /// Comma-separated values with a header.
    Csv,
    /// Statements that make a table and fill it.
    Sql,
}

/// A line of a record for people.
pub trait Tabled: Serialize {
    /// The name of the table in SQL.
    const TABLE: &'static str;
    /// The columns for people, and their widths on a terminal.
    const COLUMNS: &'static [(&'static str, usize)];

    /// The cells of these columns.
    fn cells(&self) -> Vec<String>;
}

impl Tabled for InferenceRow {
    const TABLE: &'static str = "smallmind_bench";
    const COLUMNS: &'static [(&'static str, usize)] = &[
        ("model", 24),
        ("size", 10),
        ("params", 8),
        ("backend", 8),
        ("threads", 7),
        ("KV", 5),
        ("test", 16),
        ("t/s", 17),
        ("median t/s", 10),
        ("of bandwidth", 12),
        ("of ceiling", 10),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.model_type.clone(),
            format!("{:.2} MiB", self.model_size as f64 / f64::from(1 << 20)),
            format!("{:.2} M", self.model_n_params as f64 / 1e6),
            self.backends.clone(),
            self.n_threads.to_string(),
            self.type_k.to_owned(),
            self.test().to_string(),
            format!("{:.2} ± {:.2}", self.avg_ts, self.stddev_ts),
            format!("{:.2}", self.median_ts),
            format!("{:.0} %", 100.0 * self.bandwidth_fraction),
            format!("{:.0} %", 100.0 * self.ceiling_fraction),
        ]
    }
}

impl Tabled for BatchedRow {
    const TABLE: &'static str = "smallmind_batched_bench";
    const COLUMNS: &'static [(&'static str, usize)] = &[
        ("PP", 6),
        ("TG", 6),
        ("B", 4),
        ("N_KV", 6),
        ("T_PP s", 8),
        ("S_PP t/s", 9),
        ("T_TG s", 8),
        ("S_TG t/s", 9),
        ("T s", 8),
        ("S t/s", 9),
        ("KV", 5),
    ];

    fn cells(&self) -> Vec<String> {
        let whole = [self.pp, self.tg, self.pl, self.n_kv].map(|n| n.to_string());
        let [t_pp, t_tg, t] = [self.t_pp, self.t_tg, self.t].map(|seconds| format!("{seconds:.3}"));
        let [speed_pp, speed_tg, speed] = [self.speed_pp, self.speed_tg, self.speed].map(|rate| format!("{rate:.2}"));
        whole.into_iter().chain([t_pp, speed_pp, t_tg, speed_tg, t, speed, self.type_k.to_owned()]).collect()
    }
}

/// Writes rows one after the other.
#[derive(Debug)]
pub struct InferenceWriter<R> {
    format: InferenceFormat,
    rows: usize,
    row: PhantomData<R>,
}

impl<R: Tabled> InferenceWriter<R> {
    /// Writes in that format.
    pub fn new(format: InferenceFormat) -> Self {
        Self { format, rows: 0, row: PhantomData }
    }

    /// The text of the next row, after the head of the record if it is the first.
    pub fn row(&mut self, row: &R) -> String {
        let is_first = self.rows == 0;
        self.rows += 1;
        let head = |text: String| if is_first { text } else { String::new() };
        let names = || R::COLUMNS.iter().map(|(name, _)| (*name).to_owned());
        match self.format {
            InferenceFormat::Text => {
                format!("{}{}\n", head(format!("{}\n", line::<R>(names()))), line::<R>(row.cells().into_iter()))
            }
            InferenceFormat::Markdown => {
                let rule: String = (0..R::COLUMNS.len()).map(|i| if i == 0 { "| --- |" } else { " ---: |" }).collect();
                let names: Vec<_> = names().collect();
                format!("{}| {} |\n", head(format!("| {} |\n{rule}\n", names.join(" | "))), row.cells().join(" | "))
            }
            InferenceFormat::Json => format!("{}\n  {}", if is_first { "[" } else { "," }, json(row)),
            InferenceFormat::JsonLines => format!("{}\n", json(row)),
            InferenceFormat::Csv => {
                let (names, values): (Vec<_>, Vec<_>) = columns(row).into_iter().unzip();
                let values: Vec<_> = values.iter().map(|value| quoted(plain(value))).collect();
                format!("{}{}\n", head(format!("{}\n", names.join(","))), values.join(","))
            }
            InferenceFormat::Sql => {
                let (names, values): (Vec<_>, Vec<_>) = columns(row).into_iter().unzip();
                let typed = names.iter().zip(&values).map(|(name, value)| format!("  {name} {}", sql_type(value)));
                let table = format!(
                    "CREATE TABLE IF NOT EXISTS {} (\n{}\n);\n\n",
                    R::TABLE,
                    typed.collect::<Vec<_>>().join(",\n")
                );
                let values: Vec<_> = values.iter().map(sql_value).collect();
                format!(
                    "{}INSERT INTO {} ({}) VALUES ({});\n",
                    head(table),
                    R::TABLE,
                    names.join(", "),
                    values.join(", ")
                )
            }
        }
    }

    /// The text after the last row.
    pub fn end(&self) -> &'static str {
        match (self.format, self.rows) {
            (InferenceFormat::Json, 0) => "[]\n",
            (InferenceFormat::Json, _) => "\n]\n",
            _ => "",
        }
    }
}

fn json(row: &impl Serialize) -> String {
    // This can't fail: a row has only numbers and text, no map with keys that aren't strings.
    serde_json::to_string(row).unwrap_or_default()
}

fn line<R: Tabled>(cells: impl Iterator<Item = String>) -> String {
    let cell = |((i, text), (_, width)): ((usize, String), &(&str, usize))| {
        if i == 0 { format!("{text:<width$}") } else { format!("{text:>width$}") }
    };
    cells.enumerate().zip(R::COLUMNS).map(cell).collect::<Vec<_>>().join(" ").trim_end().to_owned()
}

/// The fields of a row that are no lists, in their order.
fn columns(row: &impl Serialize) -> Vec<(String, Value)> {
    let fields: Fields = serde_json::from_str(&json(row)).unwrap_or(Fields(vec![]));
    fields.0.into_iter().filter(|(_, value)| !value.is_array()).collect()
}

/// The fields of an object in their order.
struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = vec![];
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn sql_type(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "TEXT",
        Value::Number(number) if number.is_f64() => "REAL",
        _ => "INTEGER",
    }
}

fn sql_value(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::String(text) => format!("'{}'", text.replace('\'', "''")),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> BatchedRow {
        BatchedRow {
            schema_version: 1,
            model_filename: "it's, a \"model\"".into(),
            model_type: "llama q8_0".into(),
            backends: "avx2".into(),
            n_batch: 128,
            n_threads: 2,
            type_k: "f16",
            type_v: "f16",
            runs: 3,
            pp: 128,
            tg: 32,
            pl: 4,
            n_kv: 640,
            t_pp: 0.5,
            speed_pp: 1024.0,
            t_tg: 2.0,
            speed_tg: 64.0,
            t: 2.5,
            speed: 256.0,
        }
    }

    fn written(format: InferenceFormat, rows: usize) -> String {
        let mut writer = InferenceWriter::new(format);
        let text: String = (0..rows).map(|_| writer.row(&row())).collect();
        text + writer.end()
    }

    #[test]
    fn json_is_an_array_also_when_it_is_empty() {
        let value: Value = serde_json::from_str(&written(InferenceFormat::Json, 2)).unwrap();
        assert_eq!((value.as_array().unwrap().len(), &value[1]["speed_tg"]), (2, &64.0.into()));
        assert_eq!(written(InferenceFormat::Json, 0), "[]\n");
        assert_eq!(written(InferenceFormat::JsonLines, 2).lines().count(), 2);
    }

    #[test]
    fn csv_and_sql_have_the_fields_in_their_order() {
        let csv = written(InferenceFormat::Csv, 1);
        assert!(csv.starts_with("schema_version,model_filename,model_type,"), "{csv}");
        assert_eq!(crate::format::csv_records(&csv)[1][1], "it's, a \"model\"");
        let sql = written(InferenceFormat::Sql, 2);
        assert_eq!((sql.matches("CREATE TABLE").count(), sql.matches("INSERT INTO").count()), (1, 2), "{sql}");
        assert!(sql.contains("  t_pp REAL,") && sql.contains("(1, 'it''s, a \"model\"', 'llama q8_0'"), "{sql}");
    }

    #[test]
    fn tables_have_one_head() {
        let text = written(InferenceFormat::Text, 2);
        assert_eq!((text.lines().count(), text.matches("S_TG t/s").count()), (3, 1), "{text}");
        let markdown = written(InferenceFormat::Markdown, 2);
        assert!(
            markdown.lines().count() == 4 && markdown.lines().all(|line| line.matches('|').count() == 12),
            "{markdown}"
        );
    }
}
