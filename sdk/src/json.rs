//! A JSON writer of a few lines: `describe` is the only JSON a component writes, and a library for it
//! would be larger than the component.

/// JSON text under construction.
#[derive(Default)]
pub(crate) struct Json {
    text: String,
}

impl Json {
    pub(crate) fn into_string(self) -> String {
        self.text
    }

    fn separate(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with(['{', '[', ':', ',']) {
            self.text.push(',');
        }
    }

    /// Writes an object's next key.
    pub(crate) fn key(&mut self, key: &str) -> &mut Self {
        self.separate();
        self.quote(key);
        self.text.push(':');
        self
    }

    /// Writes a value that is JSON already.
    pub(crate) fn raw(&mut self, value: &str) {
        self.separate();
        self.text.push_str(value);
    }

    pub(crate) fn text(&mut self, value: &str) {
        self.separate();
        self.quote(value);
    }

    pub(crate) fn optional_text(&mut self, value: Option<&str>) {
        match value {
            Some(value) => self.text(value),
            None => self.raw("null"),
        }
    }

    pub(crate) fn texts(&mut self, values: &[&str]) {
        self.array(values, |json, value| json.text(value));
    }

    pub(crate) fn array<T>(&mut self, values: &[T], mut each: impl FnMut(&mut Self, &T)) {
        self.separate();
        self.text.push('[');
        values.iter().for_each(|value| each(self, value));
        self.text.push(']');
    }

    pub(crate) fn object(&mut self, fields: impl FnOnce(&mut Self)) {
        self.separate();
        self.text.push('{');
        fields(self);
        self.text.push('}');
    }

    fn quote(&mut self, value: &str) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        self.text.push('"');
        for character in value.chars() {
            match character {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                control if (control as u32) < 0x20 => {
                    self.text.push_str("\\u00");
                    self.text.push(HEX[control as usize >> 4] as char);
                    self.text.push(HEX[control as usize & 15] as char);
                }
                other => self.text.push(other),
            }
        }
        self.text.push('"');
    }
}
