//! CSV as training sets need it: a bare empty cell is null, a quoted one (`""`) is the empty string, on reading and
//! on writing. That difference is why this is not the `csv` crate, which does not tell the two apart.

use plumb_pipeline::{Error, Result};
use std::path::Path;

/// A CSV file in memory: its header and, by column, its cells; `None` = a bare empty cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CsvFile {
    pub(crate) names: Vec<String>,
    pub(crate) columns: Vec<Vec<Option<String>>>,
}

impl CsvFile {
    /// Reads a file with a header line; every further line has as many cells.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::invalid(format!("`{}` does not exist", path.display())),
            _ => Error::unavailable(format!("read `{}`", path.display()), error),
        })?;
        let bad = |why: String| Error::invalid(format!("`{}`: {why}", path.display()));
        let text = std::str::from_utf8(&bytes).map_err(|error| bad(format!("the CSV is not UTF-8: {error}")))?;
        let mut rows = Rows { rest: text.strip_prefix('\u{feff}').unwrap_or(text), line: 1 };
        let header = rows.next().map_err(bad)?.ok_or_else(|| bad("is empty, expected a header line".to_owned()))?;
        let names: Vec<String> = header.into_iter().map(Option::unwrap_or_default).collect();
        if let Some((index, name)) = names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)) {
            return Err(bad(format!("column {} is named `{name}` like one before it", index + 1)));
        }
        let mut columns: Vec<Vec<Option<String>>> = vec![Vec::new(); names.len()];
        loop {
            let line = rows.line;
            let Some(cells) = rows.next().map_err(bad)? else { break };
            if cells.len() != names.len() {
                return Err(bad(format!("line {line} has {} cells, the header has {}", cells.len(), names.len())));
            }
            for (column, cell) in columns.iter_mut().zip(cells) {
                column.push(cell);
            }
        }
        Ok(Self { names, columns })
    }
}

/// The lines still to read.
struct Rows<'a> {
    rest: &'a str,
    line: usize,
}

impl Rows<'_> {
    /// The cells of the next line.
    fn next(&mut self) -> Result<Option<Vec<Option<String>>>, String> {
        let mut cells = Vec::new();
        if self.rest.is_empty() {
            return Ok(None);
        }
        loop {
            let cell = if let Some(quoted) = self.rest.strip_prefix('"') {
                Some(self.quoted(quoted)?)
            } else {
                let end = self.rest.find([',', '\n', '\r']).unwrap_or(self.rest.len());
                let (cell, rest) = self.rest.split_at(end);
                if cell.contains('"') {
                    return Err(format!("line {}: a quote inside a cell that does not begin with one", self.line));
                }
                self.rest = rest;
                (!cell.is_empty()).then(|| cell.to_owned())
            };
            cells.push(cell);
            match self.rest.as_bytes() {
                [b',', ..] => self.rest = &self.rest[1..],
                [b'\r', b'\n', ..] => return Ok(Some(self.end(cells, 2))),
                [b'\n' | b'\r', ..] => return Ok(Some(self.end(cells, 1))),
                [] => return Ok(Some(cells)),
                _ => return Err(format!("line {}: text after a closing quote", self.line)),
            }
        }
    }

    fn end(&mut self, cells: Vec<Option<String>>, bytes: usize) -> Vec<Option<String>> {
        self.rest = &self.rest[bytes..];
        self.line += 1;
        cells
    }

    fn quoted(&mut self, mut rest: &str) -> Result<String, String> {
        let line = self.line;
        let mut cell = String::new();
        loop {
            let Some(end) = rest.find('"') else { return Err(format!("line {line}: a quote is never closed")) };
            cell.push_str(&rest[..end]);
            rest = &rest[end + 1..];
            let Some(more) = rest.strip_prefix('"') else { break };
            cell.push('"');
            rest = more;
        }
        // Offsets are of the original text: `self.rest` still begins with the opening quote.
        self.line += cell.matches('\n').count();
        let used = self.rest.len() - rest.len();
        self.rest = &self.rest[used..];
        Ok(cell)
    }
}

/// Appends a cell; `None` = null.
pub(crate) fn push_cell(out: &mut Vec<u8>, cell: Option<&str>) {
    let Some(cell) = cell else { return };
    if !cell.is_empty() && !cell.contains(['"', ',', '\n', '\r']) {
        out.extend_from_slice(cell.as_bytes());
        return;
    }
    out.push(b'"');
    for (index, part) in cell.split('"').enumerate() {
        if index > 0 {
            out.extend_from_slice(b"\"\"");
        }
        out.extend_from_slice(part.as_bytes());
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<CsvFile> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.csv");
        std::fs::write(&path, text).unwrap();
        CsvFile::read(&path)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            rows in prop::collection::vec(prop::collection::vec(prop::option::of("[a\",\n\r é]{0,4}"), 3), 0..8)
        ) {
            let mut text = b"x,y,z\n".to_vec();
            for row in &rows {
                for (index, cell) in row.iter().enumerate() {
                    if index > 0 {
                        text.push(b',');
                    }
                    push_cell(&mut text, cell.as_deref());
                }
                text.push(b'\n');
            }
            let file = read(std::str::from_utf8(&text).unwrap()).unwrap();
            for (column, cells) in file.columns.iter().enumerate() {
                let wanted: Vec<_> = rows.iter().map(|row| row[column].clone()).collect();
                prop_assert_eq!(cells, &wanted);
            }
        }
    }

    #[test]
    fn reads_what_others_write_and_names_the_line() {
        let cell = |text: &str| Some(text.to_owned());
        let file = read("\u{feff}a,\"b b\"\r\n1,\"x\ny\"\r\n,\"\"").unwrap();
        assert_eq!(file.names, ["a", "b b"]);
        assert_eq!(file.columns, [vec![cell("1"), None], vec![cell("x\ny"), cell("")]]);
        for (text, why) in [
            ("", "is empty, expected a header line"),
            ("a,a\n", "column 2 is named `a` like one before it"),
            ("a,b\n1,2\n3\n", "line 3 has 1 cells, the header has 2"),
            ("a\n\"x", "line 2: a quote is never closed"),
            ("a\n\"x\"y\n", "line 2: text after a closing quote"),
            ("a\nx\"y\n", "line 2: a quote inside a cell"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("labels.csv"), "{error}");
        }
    }
}
