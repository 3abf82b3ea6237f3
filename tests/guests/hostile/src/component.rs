//! The interface implemented by hand: what the SDK would never return.

use super::Hostile;
use plumb_sdk::component::{self, bindings, wit};
use std::hint::black_box;

struct Component;

impl wit::Guest for Component {
    fn describe() -> String {
        plumb_sdk::native::describe::<Hostile>()
    }

    fn extract(events: wit::Batch) -> wit::Contributions {
        // Column 1 is `category`.
        let poison: Vec<Option<String>> =
            (0..events.rows as usize).map(|row| text_at(&events.columns[1], row)).collect();
        let mut output = component::extract::<Hostile>(&events);
        let count = events.rows;
        for (row, category) in poison.iter().enumerate() {
            let Some(kind) = category.as_deref().and_then(|category| category.strip_prefix("poison:")) else {
                continue;
            };
            disaster(kind);
            match kind {
                "short-slot" => shorten(&mut output.slots[0]),
                "missing-slot" => output.slots.clear(),
                "row-index" => {
                    if let Some(last) = output.rows.last_mut() {
                        *last = count;
                    }
                }
                "error-index" => output.errors.push(wit::RowError { row: count, message: "nobody".into() }),
                "offsets" => with_text(&mut output.slots[1], |text| text.offsets.reverse()),
                "utf8" => with_text(&mut output.slots[1], |text| text.data.fill(0xff)),
                "validity" => output.slots[1].validity = vec![0; (count as usize).div_ceil(8) + 1],
                "type" => output.slots[0].values = wit::Values::S64(vec![1; output.rows.len()]),
                "state" => repeat_after(&mut output, row as u32),
                _ => {}
            }
        }
        output
    }

    fn finalize(aggregates: wit::Batch) -> wit::Features {
        // Column 0 is the instant, 1 is `events`, 2 is `last_category`.
        let poison: Vec<Option<String>> =
            (0..aggregates.rows as usize).map(|row| text_at(&aggregates.columns[2], row)).collect();
        let mut output = component::finalize::<Hostile>(&aggregates);
        for category in poison.iter().flatten() {
            if let Some(kind) = category.strip_prefix("poison:finalize-") {
                disaster(kind);
                if kind == "short" {
                    shorten(&mut output.columns[0]);
                }
            }
        }
        output
    }
}

/// What does not come back.
fn disaster(kind: &str) {
    match kind {
        "trap" => std::process::abort(),
        "loop" => loop {
            black_box(());
        },
        "memory" => loop {
            black_box(vec![1_u8; 1 << 20].leak());
        },
        "stack" => {
            black_box(deeper(1));
        }
        _ => {}
    }
}

#[expect(unconditional_recursion, reason = "this is what it is for")]
fn deeper(level: u64) -> u64 {
    let frame = black_box([level; 64]);
    deeper(level + 1) + frame[63]
}

fn text_at(column: &wit::Column, row: usize) -> Option<String> {
    if !column.validity.is_empty() && column.validity[row / 8] >> (row % 8) & 1 == 0 {
        return None;
    }
    let of = |text: &wit::Text, row: usize| {
        let bytes = &text.data[text.offsets[row] as usize..text.offsets[row + 1] as usize];
        String::from_utf8_lossy(bytes).into_owned()
    };
    match &column.values {
        wit::Values::Utf8(text) => Some(of(text, row)),
        wit::Values::DictionaryUtf8(coded) => Some(of(&coded.dictionary, coded.codes[row] as usize)),
        _ => None,
    }
}

fn shorten(column: &mut wit::Column) {
    match &mut column.values {
        wit::Values::Boolean(rows) => {
            rows.pop();
        }
        wit::Values::S64(rows) => {
            rows.pop();
        }
        _ => {}
    }
}

fn with_text(column: &mut wit::Column, change: impl FnOnce(&mut wit::Text)) {
    if let wit::Values::Utf8(text) = &mut column.values {
        change(text);
    }
}

/// Contributions after `row` appear twice: later rows depend on an earlier one.
fn repeat_after(output: &mut wit::Contributions, row: u32) {
    let later: Vec<usize> = (0..output.rows.len()).filter(|&at| output.rows[at] > row).collect();
    output.rows.extend(later.iter().map(|&at| output.rows[at]).collect::<Vec<u32>>());
    for slot in &mut output.slots {
        // All present: what is repeated is the value, a null row's empty string included.
        slot.validity.clear();
        match &mut slot.values {
            wit::Values::Boolean(rows) => rows.extend(later.iter().map(|&at| rows[at]).collect::<Vec<u8>>()),
            wit::Values::Utf8(text) => {
                for &at in &later {
                    let bytes = text.data[text.offsets[at] as usize..text.offsets[at + 1] as usize].to_vec();
                    text.data.extend_from_slice(&bytes);
                    text.offsets.push(text.data.len() as u32);
                }
            }
            _ => {}
        }
    }
}

bindings::export!(Component with_types_in plumb_sdk::component::bindings);
