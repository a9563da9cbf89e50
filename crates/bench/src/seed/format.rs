//! The record as text: four tables for people, or one of all columns for programs.

use crate::format::{RecordFormat, quoted};

use super::row::{SeedPart, SeedRow};

/// The columns of a CSV record.
pub const SEED_CSV_HEADER: &str = "part,name,threads,isa,runs,tokens,unit,now,ms_per_forward,bytes_per_token,factor,\
                                   over_naive,then,then_bytes_per_token,target,note,error";

/// Writes rows one after the other.
#[derive(Clone, Debug)]
pub struct SeedWriter {
    format: RecordFormat,
    rows: usize,
    part: Option<SeedPart>,
}

impl SeedWriter {
    /// Writes in that format.
    pub fn new(format: RecordFormat) -> Self {
        Self { format, rows: 0, part: None }
    }

    /// The text before the first row.
    pub fn begin(&self) -> String {
        match self.format {
            RecordFormat::Json => "[".to_owned(),
            RecordFormat::Csv => format!("{SEED_CSV_HEADER}\n"),
            RecordFormat::Text | RecordFormat::Markdown | RecordFormat::JsonLines => String::new(),
        }
    }

    /// The text of the next row, after the head of its table if it is the first of the table.
    pub fn row(&mut self, row: &SeedRow) -> String {
        let head = (self.part != Some(row.part)).then(|| headings(row.part));
        self.part = Some(row.part);
        self.rows += 1;
        let gap = if self.rows > 1 { "\n" } else { "" };
        match self.format {
            RecordFormat::Text => {
                let head =
                    head.map(|head| format!("{gap}{}\n", text_line(row.part, head.iter().map(|h| (*h).to_owned()))));
                format!("{}{}\n", head.unwrap_or_default(), text_line(row.part, cells(row).into_iter()))
            }
            RecordFormat::Markdown => {
                let rule = |head: &[&str]| format!("{gap}| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
                format!("{}| {} |\n", head.map(rule).unwrap_or_default(), cells(row).join(" | "))
            }
            RecordFormat::Json => format!("{}\n  {}", if self.rows == 1 { "" } else { "," }, json(row)),
            RecordFormat::JsonLines => format!("{}\n", json(row)),
            RecordFormat::Csv => format!("{}\n", csv_line(row)),
        }
    }

    /// The text after the last row.
    pub fn end(&self) -> &'static str {
        match self.format {
            RecordFormat::Json => "\n]\n",
            RecordFormat::Text | RecordFormat::Markdown | RecordFormat::JsonLines | RecordFormat::Csv => "",
        }
    }
}

fn json(row: &SeedRow) -> String {
    // This can't fail: a row has only numbers and text, no map with keys that aren't strings.
    serde_json::to_string(row).unwrap_or_default()
}

fn headings(part: SeedPart) -> &'static [&'static str] {
    match part {
        SeedPart::Kernel => &["kernel", "threads", "unit", "then (C#)", "now", "times", "note"],
        SeedPart::Ladder => {
            &["rung", "threads", "products", "tokens/s", "ms a forward", "bytes a token", "x before", "x naive", "note"]
        }
        SeedPart::Without => {
            &["without", "threads", "products", "tokens/s", "ms a forward", "bytes a token", "x with it", "note"]
        }
        SeedPart::Workload => &[
            "workload",
            "threads",
            "then (C#), tokens/s",
            "now, tokens/s",
            "target",
            "ms a forward",
            "then, bytes a token",
            "now, bytes a token",
            "note",
        ],
    }
}

/// Widths of a table's columns; the last has none.
fn widths(part: SeedPart) -> &'static [usize] {
    match part {
        SeedPart::Kernel => &[26, 7, 10, 9, 9, 7],
        SeedPart::Ladder => &[26, 7, 8, 9, 12, 13, 8, 8],
        SeedPart::Without => &[26, 7, 8, 9, 12, 13, 9],
        SeedPart::Workload => &[34, 7, 19, 13, 7, 12, 19, 18],
    }
}

fn text_line(part: SeedPart, cells: impl Iterator<Item = String>) -> String {
    let widths = widths(part);
    let cell = |(i, text): (usize, String)| match widths.get(i) {
        Some(width) if i > 0 => format!("{text:>width$}"),
        Some(width) => format!("{text:<width$}"),
        None => text,
    };
    cells.enumerate().map(cell).collect::<Vec<_>>().join(" ").trim_end().to_owned()
}

/// The cells of the tables for people.
fn cells(row: &SeedRow) -> Vec<String> {
    let note = row.error.clone().unwrap_or_else(|| row.note.clone());
    let (name, threads, now) = (row.name.clone(), row.threads.to_string(), number(row.now));
    match row.part {
        SeedPart::Kernel => {
            let times = row.now.zip(row.then).map(|(now, then)| now / then);
            vec![name, threads, row.unit.to_owned(), number(row.then), now, number(times), note]
        }
        SeedPart::Ladder => {
            let isa = row.isa.to_owned();
            let (ms, bytes) = (number(row.ms_per_forward), whole(row.bytes_per_token));
            vec![name, threads, isa, now, ms, bytes, number(row.factor), number(row.over_naive), note]
        }
        SeedPart::Without => {
            let (ms, bytes) = (number(row.ms_per_forward), whole(row.bytes_per_token));
            vec![name, threads, row.isa.to_owned(), now, ms, bytes, number(row.factor), note]
        }
        SeedPart::Workload => {
            let (ms, target) = (number(row.ms_per_forward), row.target.map_or_else(none, |x| format!(">= {x}")));
            let (then, bytes) = (whole(row.then_bytes_per_token), whole(row.bytes_per_token));
            vec![name, threads, number(row.then), now, target, ms, then, bytes, note]
        }
    }
}

fn none() -> String {
    "-".to_owned()
}

/// A number, rounded to about three digits.
fn number(x: Option<f64>) -> String {
    let digits = |x: f64| match x.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    x.map_or_else(none, |x| format!("{x:.*}", digits(x)))
}

fn whole(x: Option<f64>) -> String {
    x.map_or_else(none, |x| format!("{x:.0}"))
}

fn csv_line(row: &SeedRow) -> String {
    let number = |x: Option<f64>| x.map(|x| format!("{x:.6}")).unwrap_or_default();
    let part = match row.part {
        SeedPart::Kernel => "kernel",
        SeedPart::Ladder => "ladder",
        SeedPart::Without => "without",
        SeedPart::Workload => "workload",
    };
    let fields = [
        part.to_owned(),
        row.name.clone(),
        row.threads.to_string(),
        row.isa.to_owned(),
        row.runs.to_string(),
        row.tokens.map(|n| n.to_string()).unwrap_or_default(),
        row.unit.to_owned(),
        number(row.now),
        number(row.ms_per_forward),
        number(row.bytes_per_token),
        number(row.factor),
        number(row.over_naive),
        number(row.then),
        number(row.then_bytes_per_token),
        number(row.target),
        row.note.clone(),
        row.error.clone().unwrap_or_default(),
    ];
    fields.map(quoted).join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_has_every_row_and_a_head_for_each_table() {
        let mut rung = SeedRow::new(SeedPart::Ladder, "naive, of old", 1, "scalar", "tokens/s");
        rung.now = Some(4.5678);
        let kernel =
            SeedRow { then: Some(2.0), now: Some(5.0), ..SeedRow::new(SeedPart::Kernel, "k", 2, "avx2", "GB/s") };
        let written = |format| {
            let mut writer = SeedWriter::new(format);
            let rows: String = [&kernel, &rung, &rung].iter().map(|row| writer.row(row)).collect();
            writer.begin() + &rows + writer.end()
        };
        let json: serde_json::Value = serde_json::from_str(&written(RecordFormat::Json)).unwrap();
        assert_eq!((json.as_array().unwrap().len(), &json[1]["part"]), (3, &"ladder".into()));
        assert_eq!(written(RecordFormat::JsonLines).lines().count(), 3);
        let csv = written(RecordFormat::Csv);
        let records = crate::format::csv_records(&csv);
        assert!(records.len() == 4 && records.iter().all(|record| record.len() == records[0].len()), "{csv}");
        for format in [RecordFormat::Text, RecordFormat::Markdown] {
            let text = written(format);
            assert_eq!((text.matches("x before").count(), text.matches("4.57").count()), (1, 2), "{text}");
            assert!(text.contains("2.50"), "{text}");
        }
    }
}
