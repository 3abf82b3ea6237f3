//! CSV as training sets need it: a bare empty cell is null, a quoted one (`""`) is the empty string, on reading and
//! on writing. That difference is why this is not the `csv` crate, which does not tell the two apart.

use plumb_pipeline::{Error, Result};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes read at a time.
const BLOCK_BYTES: usize = 1 << 20;
/// The most bytes of one row: a quote that is never closed would make the rest of a file one.
const ROW_BYTES_MAX: usize = 64 << 20;

/// Rows of a CSV file in memory: the names of its columns and, by column, the cells; `None` = a bare empty cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CsvFile {
    pub(crate) names: Vec<String>,
    pub(crate) columns: Vec<Vec<Option<String>>>,
}

impl CsvFile {
    /// Reads a file with a header line; every further line has as many cells.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        CsvReader::open(path)?.rows(usize::MAX)
    }

    /// How many rows there are.
    pub(crate) fn rows(&self) -> usize {
        self.columns.first().map_or(0, Vec::len)
    }
}

/// Reads a CSV file some rows at a time.
#[derive(Debug)]
pub(crate) struct CsvReader {
    path: PathBuf,
    file: File,
    names: Vec<String>,
    /// Whole rows, of which those before `at` were taken.
    text: String,
    at: usize,
    /// What was read behind them.
    rest: Vec<u8>,
    /// How much of `rest` was looked at for the end of a row, and whether that is inside of quotes.
    looked: usize,
    quoted: bool,
    ended: bool,
    line: usize,
    /// Bytes of the file before `text`.
    before: usize,
}

impl CsvReader {
    /// Opens a file and reads its header line.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::invalid(format!("`{}` does not exist", path.display())),
            _ => Error::unavailable(format!("read `{}`", path.display()), error),
        })?;
        let mut reader = Self {
            path: path.to_owned(),
            file,
            names: Vec::new(),
            text: String::new(),
            at: 0,
            rest: Vec::new(),
            looked: 0,
            quoted: false,
            ended: false,
            line: 1,
            before: 0,
        };
        let header = reader.next()?.ok_or_else(|| reader.bad("is empty, expected a header line"))?;
        let names: Vec<String> = header.into_iter().map(Option::unwrap_or_default).collect();
        if let Some((index, name)) = names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)) {
            return Err(reader.bad(format!("column {} is named `{name}` like one before it", index + 1)));
        }
        reader.names = names;
        Ok(reader)
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The names of the columns.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// The next rows: as many, or all that are left; every one has as many cells as the header.
    pub(crate) fn rows(&mut self, most: usize) -> Result<CsvFile> {
        let mut columns: Vec<Vec<Option<String>>> = vec![Vec::new(); self.names.len()];
        for _ in 0..most {
            let Some(cells) = self.next()? else { break };
            for (column, cell) in columns.iter_mut().zip(cells) {
                column.push(cell);
            }
        }
        Ok(CsvFile { names: self.names.clone(), columns })
    }

    fn next(&mut self) -> Result<Option<Vec<Option<String>>>> {
        while self.at == self.text.len() {
            if self.ended && self.rest.is_empty() {
                return Ok(None);
            }
            self.fill()?;
        }
        let line = self.line;
        let mut rows = Rows { rest: &self.text[self.at..], line };
        let cells = rows.next().map_err(|why| self.bad(why))?;
        (self.at, self.line) = (self.text.len() - rows.rest.len(), rows.line);
        match cells {
            Some(cells) if !self.names.is_empty() && cells.len() != self.names.len() => {
                let (found, wanted) = (cells.len(), self.names.len());
                Err(self.bad(format!("line {line} has {found} cells, the header has {wanted}")))
            }
            cells => Ok(cells),
        }
    }

    /// Reads on until there is a whole row.
    fn fill(&mut self) -> Result<()> {
        self.before += self.text.len();
        let end = loop {
            let end = self.end_of_rows();
            if self.ended {
                break self.rest.len();
            }
            if let Some(end) = end {
                break end;
            }
            if self.rest.len() >= ROW_BYTES_MAX {
                let line = self.line;
                return Err(self.bad(format!(
                    "line {line}: no end of the row in {} MiB; a quote may never be closed",
                    ROW_BYTES_MAX >> 20
                )));
            }
            let read = (&mut self.file).take(BLOCK_BYTES as u64).read_to_end(&mut self.rest);
            let read = read.map_err(|error| Error::unavailable(format!("read `{}`", self.path.display()), error))?;
            self.ended = read == 0;
        };
        let behind = self.rest.split_off(end);
        let rows = std::mem::replace(&mut self.rest, behind);
        (self.looked, self.quoted) = (0, false);
        self.text = String::from_utf8(rows).map_err(|error| {
            let at = self.before + error.utf8_error().valid_up_to();
            self.bad(format!("the CSV is not UTF-8 at byte {at}"))
        })?;
        self.at = match self.before {
            0 if self.text.starts_with('\u{feff}') => '\u{feff}'.len_utf8(),
            _ => 0,
        };
        Ok(())
    }

    /// Behind the last row that is there as a whole, if any is. Quotes come in pairs where a row is well-formed, and a row
    /// that is not is an error wherever it ends.
    fn end_of_rows(&mut self) -> Option<usize> {
        let mut end = None;
        // What comes behind a carriage return says whether it ends a row alone.
        let most = if self.ended { self.rest.len() } else { self.rest.len().saturating_sub(1) };
        for at in self.looked..most {
            match self.rest[at] {
                b'"' => self.quoted = !self.quoted,
                b'\n' if !self.quoted => end = Some(at + 1),
                b'\r' if !self.quoted && self.rest.get(at + 1) != Some(&b'\n') => end = Some(at + 1),
                _ => {}
            }
        }
        self.looked = self.looked.max(most);
        end
    }

    fn bad(&self, why: impl std::fmt::Display) -> Error {
        Error::invalid(format!("`{}`: {why}", self.path.display()))
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
    fn rows_that_lie_across_blocks_are_read_whole() {
        // Rows of all lengths and ends, so that blocks end in cells, in quotes, between quotes and inside of line ends.
        let mut text = String::from("\u{feff}x,y\r\n");
        let mut wanted: Vec<(Option<String>, Option<String>)> = Vec::new();
        let mut out = Vec::new();
        for row in 0..60_000usize {
            let long = ["é", "\"", "\n", "\r\n", ","][row % 5].repeat(row % 83);
            let x = (row % 7 > 0).then(|| format!("{row}{long}"));
            out.clear();
            push_cell(&mut out, x.as_deref());
            out.push(b',');
            push_cell(&mut out, Some(""));
            text.push_str(std::str::from_utf8(&out).unwrap());
            text.push_str(["\n", "\r\n", "\r"][row % 3]);
            wanted.push((x, Some(String::new())));
        }
        assert!(text.len() > 3 * BLOCK_BYTES);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.csv");
        std::fs::write(&path, &text).unwrap();
        let mut reader = CsvReader::open(&path).unwrap();
        let (mut rows, mut windows) = (Vec::new(), 0);
        loop {
            let window = reader.rows(1_000).unwrap();
            if window.rows() == 0 {
                break;
            }
            let [xs, ys] = <[_; 2]>::try_from(window.columns).unwrap();
            rows.extend(xs.into_iter().zip(ys));
            windows += 1;
        }
        assert!(rows == wanted);
        assert_eq!(windows, 60);
        // What is wrong far behind the first block has its place, too.
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(b"a,b,c\n");
        std::fs::write(&path, &bytes).unwrap();
        let error = CsvFile::read(&path).unwrap_err().to_string();
        assert!(error.contains(" has 3 cells, the header has 2"), "{error}");
        let at = bytes.len() - 6;
        bytes[at] = 0xff;
        std::fs::write(&path, &bytes).unwrap();
        let error = CsvFile::read(&path).unwrap_err().to_string();
        assert!(error.ends_with(&format!("the CSV is not UTF-8 at byte {at}")), "{error}");
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
