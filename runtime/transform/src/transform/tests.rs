use super::*;
use crate::guest::GuestOutput;
use plumb_core::column::Bitmap;

/// Traps on a NaN price, has an error on a negative one, contributes twice above 100 and not at all on a null.
struct Touchy;

impl Guest for Touchy {
    fn extract(&self, rows: usize, columns: &[&Column]) -> Result<GuestOutput<Contributions>, Fault> {
        assert!(rows <= MAX_ROWS_PER_CALL && columns.iter().all(|column| column.len() == rows));
        let prices = columns[1].as_f64().unwrap();
        let (mut out, mut amounts, mut errors) = (Vec::new(), Column::new(&DataType::F64), Vec::new());
        for (row, &price) in prices.iter().enumerate() {
            assert!(columns[0].is_valid(row), "the host keeps rows without a required field back");
            if !columns[1].is_valid(row) {
                continue;
            }
            if price.is_nan() {
                return Err(Fault::Trap("unreachable".into()));
            }
            if price < 0.0 {
                errors.push(RowError { row: row as u32, message: format!("price {price}") });
            }
            for _ in 0..if price > 100.0 { 2 } else { 1 } {
                out.push(row as u32);
                amounts.push_f64(price);
            }
        }
        out.reverse();
        let amounts = amounts.take((0..out.len()).rev());
        Ok(GuestOutput { value: Contributions { rows: out, slots: vec![amounts.clone(), amounts] }, errors })
    }

    fn finalize(&self, as_of_us: &[i64], aggregates: &[Column]) -> Result<GuestOutput<Vec<Column>>, Fault> {
        assert!(as_of_us.len() <= MAX_ROWS_PER_CALL && aggregates.iter().all(|column| column.len() == as_of_us.len()));
        let mut values = Column::new(&DataType::I64);
        let mut errors = Vec::new();
        for (row, &instant) in as_of_us.iter().enumerate() {
            match instant % 1000 {
                7 => return Err(Fault::OutOfFuel),
                8 => errors.push(RowError { row: row as u32, message: "eight".into() }),
                _ => {}
            }
            values.push_i64(instant * aggregates[0].as_i64().unwrap()[row]);
        }
        Ok(GuestOutput { value: vec![values], errors })
    }
}

fn definition() -> ViewDef {
    let text = r#"{
        "format": 1, "name": "touchy", "version": "1.2.0", "entity": { "name": "user", "key": ["user_id"] },
        "source": "default",
        "fields": [
            { "name": "event_type", "type": "string", "required": true },
            { "name": "price", "type": "f64" },
            { "name": "event_time", "type": "timestamp" }
        ],
        "slots": [{ "name": "amount", "type": "f64" }, { "name": "again", "type": "f64" }],
        "aggregates": [
            { "name": "n", "operator": "count", "slots": ["amount"], "window": { "kind": "lifetime" } }
        ],
        "features": [{ "name": "n", "type": "i64", "aggregates": ["n"] }]
    }"#;
    crate::describe::parse(text).unwrap().def
}

fn touchy() -> Transform {
    Transform::native(definition(), Arc::new(Touchy), &Arc::new(SourceSchema::default_schema()), 0).unwrap()
}

fn events(prices: impl Iterator<Item = Option<f64>>, null_type: impl Fn(usize) -> bool) -> EventBatch {
    let mut batch = EventBatch::new(Arc::new(SourceSchema::default_schema()));
    let (kind, price) = (batch.schema.column_of("event_type").unwrap(), batch.schema.column_of("price").unwrap());
    for (row, value) in prices.enumerate() {
        batch.offsets.push(row as u64);
        batch.record_times_us.push(0);
        batch.times_us.push(row as i64);
        for (index, column) in batch.columns.iter_mut().enumerate() {
            match value {
                _ if index == kind && !null_type(row) => column.push_bytes(b"view"),
                Some(value) if index == price => column.push_f64(value),
                _ => column.push_null(),
            }
        }
    }
    batch
}

#[test]
fn only_the_guilty_rows_are_left_out() {
    let price = |row: usize| match row {
        5 | 1023 | 1024 | 2400 => Some(f64::NAN),
        6 | 2401 => Some(-1.0),
        row if row % 7 == 0 => None,
        row => Some((row % 150) as f64),
    };
    let missing = |row: usize| row % 400 == 1;
    let extracted = touchy().extract(&events((0..2500).map(price), missing));
    let mut rows = Vec::new();
    let mut faults = Vec::new();
    for row in 0..2500 {
        let reason = match price(row) {
            _ if missing(row) => "required field `event_type` is null",
            Some(value) if value.is_nan() => "trap: unreachable",
            Some(value) if value < 0.0 => "guest error: price -1",
            Some(value) => {
                rows.extend(std::iter::repeat_n(row as u32, if value > 100.0 { 2 } else { 1 }));
                continue;
            }
            None => continue,
        };
        faults.push(RowFault { row: row as u32, reason: reason.into() });
    }
    assert_eq!(faults.len(), 4 + 2 + 7 - 1, "row 2401 is both missing its type and negative");
    assert_eq!(extracted.faults, faults);
    assert_eq!(extracted.contributions.rows, rows);
    let amounts: Vec<f64> = rows.iter().map(|&row| price(row as usize).unwrap()).collect();
    assert_eq!(extracted.contributions.slots[0].as_f64().unwrap(), amounts);
    assert_eq!(extracted.contributions.slots[1], extracted.contributions.slots[0]);
}

#[test]
fn verdicts_do_not_depend_on_how_batches_are_cut() {
    let price = |row: usize| match row % 11 {
        3 => Some(f64::NAN),
        4 => Some(-2.0),
        5 => None,
        _ => Some(row as f64),
    };
    let batch = events((0..100).map(price), |row| row % 13 == 0);
    let transform = touchy();
    let whole = transform.extract(&batch);
    for step in [1, 3, 64] {
        let mut parts = Extracted { contributions: Contributions::empty(&transform.plan().slots), faults: vec![] };
        for start in (0..100).step_by(step) {
            let part = transform.extract(&batch.take(start..100.min(start + step)));
            parts.contributions.rows.extend(part.contributions.rows.iter().map(|row| row + start as u32));
            for (to, from) in parts.contributions.slots.iter_mut().zip(&part.contributions.slots) {
                append(to, from);
            }
            parts.faults.extend(
                part.faults.into_iter().map(|fault| RowFault { row: fault.row + start as u32, reason: fault.reason }),
            );
        }
        assert_eq!(parts, whole, "batches of {step}");
    }
}

#[test]
fn a_row_that_cannot_be_finalized_is_null() {
    let as_of: Vec<i64> = (0..2100).collect();
    let aggregates = [Column::of(Values::I64(vec![2; 2100]))];
    let finalized = touchy().finalize(&as_of, &aggregates);
    let expected: Vec<(u32, &str)> = [0, 1000, 2000]
        .into_iter()
        .flat_map(|base| [(base + 7, "out of fuel (200000000 units)"), (base + 8, "guest error: eight")])
        .collect();
    let found: Vec<(u32, &str)> = finalized.faults.iter().map(|fault| (fault.row, fault.reason.as_str())).collect();
    assert_eq!(found, expected);
    let column = &finalized.features[0];
    for row in 0..2100 {
        let faulty = matches!(row % 1000, 7 | 8);
        assert_eq!(column.is_valid(row), !faulty, "row {row}");
        assert_eq!(column.as_i64().unwrap()[row], if faulty { 0 } else { row as i64 * 2 });
    }
    assert_eq!(touchy().finalize(&[], &[Column::new(&DataType::I64)]).features[0].len(), 0);
}

struct Wrong(Contributions);

impl Guest for Wrong {
    fn extract(&self, _: usize, _: &[&Column]) -> Result<GuestOutput<Contributions>, Fault> {
        let errors = vec![RowError { row: 0, message: "é".repeat(400) }];
        Ok(GuestOutput { value: self.0.clone(), errors })
    }

    fn finalize(&self, _: &[i64], _: &[Column]) -> Result<GuestOutput<Vec<Column>>, Fault> {
        let column = Column { validity: Some(Bitmap::all_set(2)), values: Values::I64(vec![1]) };
        Ok(GuestOutput { value: vec![column], errors: vec![] })
    }
}

#[test]
fn answers_are_checked_and_messages_are_short() {
    let schema = Arc::new(SourceSchema::default_schema());
    let wrong = |value| Transform::native(definition(), Arc::new(Wrong(value)), &schema, 0).unwrap();
    let one = events([Some(1.0)].into_iter(), |_| false);
    let amounts = || Column::of(Values::F64(vec![1.0]));
    let cases = [
        (Contributions { rows: vec![0], slots: vec![amounts()] }, "1 slot columns, 2 are declared"),
        (Contributions { rows: vec![1], slots: vec![amounts(), amounts()] }, "row index 1 in a batch of 1 events"),
        (Contributions { rows: vec![0, 0], slots: vec![amounts(), amounts()] }, "has 1 rows, expected 2"),
    ];
    for (value, why) in cases {
        let faults = wrong(value).extract(&one).faults;
        assert!(faults.len() == 1 && faults[0].reason.starts_with("malformed answer: "), "{faults:?}");
        assert!(faults[0].reason.contains(why), "{faults:?}");
    }
    let fine = wrong(Contributions { rows: vec![0], slots: vec![amounts(), amounts()] });
    let extracted = fine.extract(&one);
    assert!(extracted.contributions.is_empty());
    assert_eq!(extracted.faults[0].reason.len(), "guest error: ".len() + MAX_MESSAGE_BYTES);
    let faults = fine.finalize(&[1], &[Column::of(Values::I64(vec![1]))]).faults;
    assert!(faults[0].reason.contains("validity of 2 rows"), "{faults:?}");
}

#[test]
fn a_view_must_fit_its_source() {
    let refused = |change: fn(&mut ViewDef)| {
        let mut def = definition();
        change(&mut def);
        let schema = Arc::new(SourceSchema::default_schema());
        Transform::native(def, Arc::new(Touchy), &schema, 0).unwrap_err().to_string()
    };
    let text = refused(|def| def.source = "clicks".into());
    assert!(text.contains("`clicks`") && text.contains("`default`"), "{text}");
    let text = refused(|def| def.fields[1].name = "cost".into());
    assert!(text.contains("`touchy`") && text.contains("`cost`") && text.contains("price"), "{text}");
    let text = refused(|def| def.fields[1].data_type = DataType::I64);
    assert!(text.contains("as i64") && text.contains("as f64"), "{text}");
    let text = refused(|def| def.entity.key = vec!["quantity".into()]);
    assert!(text.contains("`quantity`"), "{text}");
    let text = refused(|def| def.entity.key = vec!["event_time".into()]);
    assert!(text.contains("`event_time`"), "{text}");
}

#[test]
fn versions_and_identities() {
    let transform = touchy();
    assert_eq!(transform.version_label(), format!("1.2.0+{}", transform.digest().short()));
    assert_eq!(transform.version_folder(), format!("1.2.0_{}", transform.digest().short()));
    assert_eq!(transform.key_columns(), [1]);
    assert_eq!(transform.state_id(), touchy().state_id());
    let mut def = definition();
    def.fields.pop();
    assert_ne!(state_id(transform.digest(), &def), transform.state_id());
    assert_ne!(state_id(&Digest::of(b""), transform.def()), transform.state_id());
}

#[test]
fn calls_are_counted_by_function() {
    let touchy = touchy();
    let rows = MAX_ROWS_PER_CALL + 5;
    touchy.extract(&events((0..rows).map(|_| Some(1.0)), |_| false));
    touchy.finalize(&[1, 2], &[Column::of(Values::I64(vec![3, 4]))]);
    let (extract, finalize) = (touchy.clone().usage(Function::Extract), touchy.usage(Function::Finalize));
    assert_eq!((extract.calls, extract.rows, extract.fuel), (2, rows as u64, 0));
    assert_eq!((finalize.calls, finalize.rows), (1, 2));
    assert!(extract.time > Duration::ZERO);
}
