//! Records of whole models as text. All forms that programs read have the fields of the rows, in their order; CSV and
//! SQL leave out the samples.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::format::quoted;

/// How a record is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFormat {
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

/// Writes rows one after the other.
#[derive(Debug)]
pub struct TableWriter<R> {
    format: TableFormat,
    rows: usize,
    row: PhantomData<R>,
}

impl<R: Tabled> TableWriter<R> {
    /// Writes in that format.
    pub fn new(format: TableFormat) -> Self {
        Self { format, rows: 0, row: PhantomData }
    }

    /// The text of the next row, after the head of the record if it is the first.
    pub fn row(&mut self, row: &R) -> String {
        let is_first = self.rows == 0;
        self.rows += 1;
        let head = |text: String| if is_first { text } else { String::new() };
        let names = || R::COLUMNS.iter().map(|(name, _)| (*name).to_owned());
        match self.format {
            TableFormat::Text => {
                format!("{}{}\n", head(format!("{}\n", line::<R>(names()))), line::<R>(row.cells().into_iter()))
            }
            TableFormat::Markdown => {
                let rule: String = (0..R::COLUMNS.len()).map(|i| if i == 0 { "| --- |" } else { " ---: |" }).collect();
                let names: Vec<_> = names().collect();
                format!("{}| {} |\n", head(format!("| {} |\n{rule}\n", names.join(" | "))), row.cells().join(" | "))
            }
            TableFormat::Json => format!("{}\n  {}", if is_first { "[" } else { "," }, json(row)),
            TableFormat::JsonLines => format!("{}\n", json(row)),
            TableFormat::Csv => {
                let (names, values): (Vec<_>, Vec<_>) = columns(row).into_iter().unzip();
                let values: Vec<_> = values.iter().map(|value| quoted(plain(value))).collect();
                format!("{}{}\n", head(format!("{}\n", names.join(","))), values.join(","))
            }
            TableFormat::Sql => {
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
            (TableFormat::Json, 0) => "[]\n",
            (TableFormat::Json, _) => "\n]\n",
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
    use crate::BatchedRow;

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

    fn written(format: TableFormat, rows: usize) -> String {
        let mut writer = TableWriter::new(format);
        let text: String = (0..rows).map(|_| writer.row(&row())).collect();
        text + writer.end()
    }

    #[test]
    fn json_is_an_array_also_when_it_is_empty() {
        let value: Value = serde_json::from_str(&written(TableFormat::Json, 2)).unwrap();
        assert_eq!((value.as_array().unwrap().len(), &value[1]["speed_tg"]), (2, &64.0.into()));
        assert_eq!(written(TableFormat::Json, 0), "[]\n");
        assert_eq!(written(TableFormat::JsonLines, 2).lines().count(), 2);
    }

    #[test]
    fn csv_and_sql_have_the_fields_in_their_order() {
        let csv = written(TableFormat::Csv, 1);
        assert!(csv.starts_with("schema_version,model_filename,model_type,"), "{csv}");
        assert_eq!(crate::format::csv_records(&csv)[1][1], "it's, a \"model\"");
        let sql = written(TableFormat::Sql, 2);
        assert_eq!((sql.matches("CREATE TABLE").count(), sql.matches("INSERT INTO").count()), (1, 2), "{sql}");
        assert!(sql.contains("  t_pp REAL,") && sql.contains("(1, 'it''s, a \"model\"', 'llama q8_0'"), "{sql}");
    }

    #[test]
    fn tables_have_one_head() {
        let text = written(TableFormat::Text, 2);
        assert_eq!((text.lines().count(), text.matches("S_TG t/s").count()), (3, 1), "{text}");
        let markdown = written(TableFormat::Markdown, 2);
        assert!(
            markdown.lines().count() == 4 && markdown.lines().all(|line| line.matches('|').count() == 15),
            "{markdown}"
        );
    }
}
