//! Records as text: a table for people, Markdown, CSV and JSON.

use crate::row::Row;

/// How a record is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordFormat {
    /// Columns for a terminal.
    Text,
    /// A Markdown table.
    Markdown,
    /// An array of objects.
    Json,
    /// One object per line.
    JsonLines,
    /// Comma-separated values with a header.
    Csv,
}

/// The columns of a CSV record.
pub const CSV_HEADER: &str = "kernel,dtype,shape,tags,threads,isa,contender,version,runs,median_us,min_us,gflops,gbps,\
                              peak_fraction,bound,ratio,vs_smallmind,chosen,error";

impl RecordFormat {
    /// The text before the first row.
    pub fn begin(self) -> String {
        match self {
            Self::Text => format!("{}\n", text_line(HEADINGS.map(str::to_owned))),
            Self::Markdown => format!("| {} |\n|{}\n", HEADINGS.join(" | "), "---|".repeat(HEADINGS.len())),
            Self::Json => "[".to_owned(),
            Self::JsonLines => String::new(),
            Self::Csv => format!("{CSV_HEADER}\n"),
        }
    }

    /// A row, the `index`-th.
    pub fn row(self, index: usize, row: &Row) -> String {
        match self {
            Self::Text => format!("{}\n", text_line(cells(row))),
            Self::Markdown => format!("| {} |\n", cells(row).join(" | ")),
            Self::Json => format!("{}\n  {}", if index == 0 { "" } else { "," }, json(row)),
            Self::JsonLines => format!("{}\n", json(row)),
            Self::Csv => format!("{}\n", csv_line(row)),
        }
    }

    /// The text after the last row.
    pub fn end(self) -> &'static str {
        match self {
            Self::Json => "\n]\n",
            Self::Text | Self::Markdown | Self::JsonLines | Self::Csv => "",
        }
    }
}

fn json(row: &Row) -> String {
    // This can't fail: a row has only numbers and text, no map with keys that aren't strings.
    serde_json::to_string(row).unwrap_or_default()
}

const HEADINGS: [&str; 11] =
    ["kernel", "shape", "thr", "contender", "median µs", "min µs", "GFLOP/s", "GB/s", "of roof", "bound", "ratio"];
const WIDTHS: [usize; 11] = [19, 32, 3, 24, 11, 11, 8, 7, 7, 7, 14];

fn text_line(cells: [String; 11]) -> String {
    let cell = |(i, text): (usize, String)| {
        let width = WIDTHS[i];
        if matches!(i, 2 | 4..=8) { format!("{text:>width$}") } else { format!("{text:<width$}") }
    };
    cells.into_iter().enumerate().map(cell).collect::<Vec<_>>().join(" ").trim_end().to_owned()
}

/// The cells of the tables for people.
fn cells(row: &Row) -> [String; 11] {
    let number = |x: Option<f64>, digits: usize| x.map_or_else(|| "-".to_owned(), |x| format!("{x:.digits$}"));
    let micros = |x: Option<f64>| number(x, if x.is_some_and(|x| x < 100.0) { 3 } else { 1 });
    let mut notes = vec![];
    notes.extend(row.ratio.map(|x| format!("{x:.3} of before")));
    notes.extend(row.vs_smallmind.map(|x| format!("{x:.2} x ours")));
    notes.extend(row.error.clone());
    let mark = if row.chosen == Some(true) { " *" } else { "" };
    [
        format!("{}/{}", row.kernel, row.dtype),
        row.shape.clone(),
        row.threads.to_string(),
        format!("{}{mark}", row.contender),
        micros(row.median_us),
        micros(row.min_us),
        number(row.gflops, 1),
        number(row.gbps, 1),
        row.peak_fraction.map_or_else(|| "-".to_owned(), |x| format!("{:.0} %", 100.0 * x)),
        row.bound.map_or("-", |bound| bound.name()).to_owned(),
        notes.join(", "),
    ]
}

fn csv_line(row: &Row) -> String {
    let number = |x: Option<f64>| x.map(|x| format!("{x:.6}")).unwrap_or_default();
    let fields = [
        row.kernel.clone(),
        row.dtype.clone(),
        row.shape.clone(),
        row.tags.clone(),
        row.threads.to_string(),
        row.isa.clone(),
        row.contender.clone(),
        row.version.clone(),
        row.runs.to_string(),
        number(row.median_us),
        number(row.min_us),
        number(row.gflops),
        number(row.gbps),
        number(row.peak_fraction),
        row.bound.map(|bound| bound.name().to_owned()).unwrap_or_default(),
        number(row.ratio),
        number(row.vs_smallmind),
        row.chosen.map(|chosen| chosen.to_string()).unwrap_or_default(),
        row.error.clone().unwrap_or_default(),
    ];
    fields.map(quoted).join(",")
}

/// A field of a CSV file, quoted if necessary.
pub(crate) fn quoted(field: String) -> String {
    if field.contains([',', '"', '\n', '\r']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field }
}

/// The records of a CSV text, as fields.
pub(crate) fn csv_records(text: &str) -> Vec<Vec<String>> {
    let (mut records, mut record, mut field) = (vec![], vec![], String::new());
    let mut inside = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if inside && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => inside = !inside,
            ',' if !inside => record.push(std::mem::take(&mut field)),
            '\r' if !inside => {}
            '\n' if !inside => {
                record.push(std::mem::take(&mut field));
                records.push(std::mem::take(&mut record));
            }
            c => field.push(c),
        }
    }
    if !field.is_empty() || !record.is_empty() {
        record.push(field);
        records.push(record);
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::roof_rows;

    fn rows() -> Vec<Row> {
        let mut rows = roof_rows(&crate::row::tests::roofs(), "1, \"two\"");
        rows.truncate(2);
        rows[1].error = Some("wrong\nat 3".into());
        rows[1].ratio = Some(1.25);
        rows
    }

    fn written(format: RecordFormat) -> String {
        let rows: String = rows().iter().enumerate().map(|(i, row)| format.row(i, row)).collect();
        format!("{}{rows}{}", format.begin(), format.end())
    }

    #[test]
    fn json_is_an_array_also_when_it_is_empty() {
        let value: serde_json::Value = serde_json::from_str(&written(RecordFormat::Json)).unwrap();
        assert_eq!(value.as_array().unwrap().len(), 2);
        assert_eq!(value[1]["ratio"], 1.25);
        assert_eq!(value[0]["bound"], "compute");
        let empty: serde_json::Value =
            serde_json::from_str(&format!("{}{}", RecordFormat::Json.begin(), RecordFormat::Json.end())).unwrap();
        assert_eq!(empty, serde_json::json!([]));
        assert_eq!(written(RecordFormat::JsonLines).lines().count(), 2);
    }

    #[test]
    fn csv_comes_back() {
        let records = csv_records(&written(RecordFormat::Csv));
        assert_eq!(records.len(), 3);
        assert!(records.iter().all(|r| r.len() == 19), "{records:?}");
        assert_eq!(records[1][7], "1, \"two\"");
        assert_eq!(records[2][18], "wrong\nat 3");
    }

    #[test]
    fn tables_have_a_line_a_row() {
        assert_eq!(written(RecordFormat::Markdown).lines().filter(|line| line.starts_with('|')).count(), 4);
        let text = written(RecordFormat::Text);
        assert!(text.contains("of roof") && text.contains("100 %") && text.contains("1.250 of before"), "{text}");
    }
}
