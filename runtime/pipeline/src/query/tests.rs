//! The evaluator over hand-made state: real views and real accumulators, a store and an archive in memory.

use super::request::Named;
use super::*;
use crate::clock::Clock;
use crate::port::{
    OnlineAnswer, OnlineEntity, OnlineField, OnlinePartial, OnlineRead, OnlineStore, OnlineWrite, PublishOutcome,
};
use crate::runtime::{ActiveView, Readiness, Roster};
use crate::{Error, Result};
use arc_swap::ArcSwap;
use plumb_core::column::{Column, DataType};
use plumb_core::contribution::Contributions;
use plumb_core::entity::{EntityDef, EntityKey};
use plumb_core::event::{EventBatch, SourceSchema};
use plumb_core::global::global_key;
use plumb_core::plan::StateId;
use plumb_core::state::{Field, ViewState};
use plumb_core::time::{DAY_US, HOUR_US, MINUTE_US};
use plumb_core::view::{AggregateDef, FeatureDef, FieldUse, Operator, SlotDef, SlotType, ViewDef, WindowSpec};
use plumb_transform::{Fault, Guest, GuestOutput, RowError, Transform};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// 2026-01-31T12:00:00Z; the clock of every test.
const NOW_US: i64 = 1_769_860_800_000_000;

struct Stopped;

impl Clock for Stopped {
    fn now_us(&self) -> i64 {
        NOW_US
    }

    fn elapsed(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }
}

/// Counts events in an hour and for ever, and ranks; fails for entities with more than five in the hour.
struct Counting;

impl Guest for Counting {
    fn extract(&self, rows: usize, _: &[&Column]) -> Result<GuestOutput<Contributions>, Fault> {
        let mut marks = Column::new(&DataType::Bool);
        (0..rows).for_each(|_| marks.push_bool(true));
        let value = Contributions { rows: (0..rows as u32).collect(), slots: vec![marks] };
        Ok(GuestOutput { value, errors: Vec::new() })
    }

    fn finalize(&self, _: &[i64], aggregates: &[Column]) -> Result<GuestOutput<Vec<Column>>, Fault> {
        let counts = aggregates[0].as_i64().unwrap().iter().enumerate();
        let errors = counts.filter(|&(_, &count)| count > 5);
        let errors = errors.map(|(row, _)| RowError { row: row as u32, message: "too many".into() }).collect();
        Ok(GuestOutput { value: aggregates.to_vec(), errors })
    }
}

fn view(name: &str, entity: &str, key: &[&str], ttl_us: Option<i64>) -> Transform {
    let mut aggregates = vec![
        ("count_1h", Operator::Count, WindowSpec::Sliding { width_us: HOUR_US, hop_us: None }),
        ("count", Operator::Count, WindowSpec::Lifetime),
    ];
    if entity == "item" {
        aggregates.push(("rank", Operator::RelativeRank, WindowSpec::Hopping { width_us: HOUR_US, hop_us: MINUTE_US }));
    }
    let def = ViewDef {
        name: name.into(),
        version: semver::Version::new(1, 0, 0),
        entity: EntityDef { name: entity.into(), key: key.iter().map(|&field| field.to_owned()).collect() },
        source: "default".into(),
        description: String::new(),
        owner: String::new(),
        team: String::new(),
        tags: Vec::new(),
        ttl_us,
        freshness_us: None,
        fields: vec![FieldUse { name: "event_type".into(), data_type: DataType::Utf8, required: true }],
        slots: vec![SlotDef { name: "any".into(), slot_type: SlotType::Mark }],
        features: aggregates
            .iter()
            .enumerate()
            .map(|(index, (name, operator, _))| FeatureDef {
                name: (*name).into(),
                data_type: operator.output_type(SlotType::Mark),
                description: String::new(),
                aggregates: vec![index],
            })
            .collect(),
        aggregates: aggregates
            .into_iter()
            .map(|(name, operator, window)| AggregateDef { name: name.into(), operator, slot: 0, window })
            .collect(),
    };
    Transform::native(def, Arc::new(Counting), &Arc::new(SourceSchema::default_schema()), HOUR_US).unwrap()
}

type Fields = BTreeMap<(u32, StateId, EntityKey), BTreeMap<OnlineField, Vec<u8>>>;

/// What partitions have published, read as it lies.
#[derive(Default)]
struct MemoryStore {
    fields: Mutex<Fields>,
    positions: Mutex<BTreeMap<u32, Option<u64>>>,
    reads: AtomicUsize,
    /// Keys that are further than the positions, and by how much; those by nothing are lost.
    parts: Mutex<BTreeMap<EntityKey, BTreeMap<u32, u64>>>,
    /// After so many reads all parts are as the whole.
    whole_after: AtomicUsize,
}

impl OnlineStore for MemoryStore {
    fn claim(&self, _: &str, _: u32, _: u64) -> Result<Option<u64>> {
        Err(Error::internal("not of these tests"))
    }

    fn publish(&self, _: &str, _: u32, _: u64, _: Option<u64>, _: u64, _: &[OnlineWrite]) -> Result<PublishOutcome> {
        Err(Error::internal("not of these tests"))
    }

    fn clear(&self, _: &str, _: u32, _: u64, _: Option<StateId>) -> Result<()> {
        Err(Error::internal("not of these tests"))
    }

    fn rebuild(&self, _: &str, _: u32, _: u64, _: &[OnlineWrite]) -> Result<PublishOutcome> {
        Err(Error::internal("not of these tests"))
    }

    fn read(&self, _: &str, partitions: &[u32], reads: &[OnlineRead]) -> Result<OnlineAnswer> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let fields = self.fields.lock().unwrap();
        let partial = |partition: u32, read: &OnlineRead| {
            let fields = fields.get(&(partition, read.state_id, read.key.clone()))?;
            let tiles =
                read.tiles.iter().filter_map(|&start| Some((start, fields.get(&OnlineField::Tile(start))?.clone())));
            Some(OnlinePartial { partition, header: fields.get(&OnlineField::Header)?.clone(), tiles: tiles.collect() })
        };
        let mut parts = self.parts.lock().unwrap();
        if self.whole_after.load(Ordering::SeqCst) == self.reads.load(Ordering::SeqCst) {
            parts.clear();
        }
        let entity = |read: &OnlineRead| {
            let partials = partitions.iter().filter_map(|&partition| partial(partition, read)).collect();
            let ahead = parts.get(&read.key).cloned();
            let lost = ahead.as_ref().is_some_and(BTreeMap::is_empty);
            OnlineEntity { partials, ahead: ahead.unwrap_or_default(), lost }
        };
        Ok(OnlineAnswer {
            positions: self.positions.lock().unwrap().clone(),
            entities: reads.iter().map(entity).collect(),
        })
    }
}

/// A view, its number of rows, the position.
type Asked = (String, usize, Option<BTreeMap<u32, u64>>);

/// Says what it was asked, and counts 77 for everyone.
#[derive(Default)]
struct FakeHistory {
    asked: Mutex<Vec<Asked>>,
}

impl History for FakeHistory {
    fn at(
        &self,
        view: &Transform,
        rows: &[(EntityKey, i64)],
        position: Option<&BTreeMap<u32, u64>>,
    ) -> Result<HistoryRows> {
        self.asked.lock().unwrap().push((view.def().name.clone(), rows.len(), position.cloned()));
        let column = |feature: &FeatureDef| {
            let mut column = Column::new(&feature.data_type);
            rows.iter().for_each(|_| match feature.data_type {
                DataType::I64 => column.push_i64(77),
                _ => column.push_f64(0.77),
            });
            column
        };
        Ok(HistoryRows {
            features: view.def().features.iter().map(column).collect(),
            event_time_us: vec![Some(7); rows.len()],
            status: vec![Status::Found; rows.len()],
            position: position.cloned().unwrap_or_else(|| BTreeMap::from([(0, 100), (1, 100)])),
        })
    }
}

struct FixedViews(Mutex<Arc<ServingSet>>);

impl Views for FixedViews {
    fn current(&self) -> Current {
        Current { set: self.0.lock().unwrap().clone(), guard: None }
    }
}

/// Two partitions with state of three views.
struct World {
    transforms: Vec<Transform>,
    states: Vec<(u32, Transform, ViewState)>,
    store: Arc<MemoryStore>,
    history: Arc<FakeHistory>,
    views: Arc<FixedViews>,
    ready: Arc<AtomicBool>,
    evaluator: Evaluator,
}

impl World {
    fn new() -> Self {
        Self::with_ttl(None)
    }

    fn with_ttl(ttl_us: Option<i64>) -> Self {
        let transforms = vec![
            view("user_view", "user", &["user_id"], ttl_us),
            view("item_view", "item", &["item_id"], None),
            view("pair_view", "user_item", &["user_id", "item_id"], None),
        ];
        let states = [0, 1].into_iter().flat_map(|partition| {
            transforms.iter().map(move |one| (partition, one.clone(), ViewState::new(one.plan().clone())))
        });
        let states = states.collect();
        let ready = Arc::new(AtomicBool::new(true));
        let views = Arc::new(FixedViews(Mutex::new(Arc::new(serving(&transforms, &ready)))));
        let store = Arc::new(MemoryStore::default());
        store.positions.lock().unwrap().extend([(0, Some(0)), (1, Some(0))]);
        let history = Arc::new(FakeHistory::default());
        let evaluator = Evaluator::new(views.clone(), store.clone(), history.clone(), Arc::new(Stopped));
        Self { transforms, states, store, history, views, ready, evaluator }
    }

    /// Applies (user, item, seconds before now) to a partition and publishes.
    fn events(&mut self, partition: u32, events: &[(Option<&str>, Option<&str>, i64)]) -> &mut Self {
        let mut batch = EventBatch::new(Arc::new(SourceSchema::default_schema()));
        for (offset, (user, item, before_s)) in events.iter().enumerate() {
            batch.offsets.push(offset as u64);
            batch.record_times_us.push(NOW_US);
            batch.times_us.push(NOW_US - before_s * 1_000_000);
            for (index, column) in batch.columns.iter_mut().enumerate() {
                match (index, user, item) {
                    (1, Some(user), _) => column.push_bytes(user.as_bytes()),
                    (2, _, Some(item)) => column.push_bytes(item.as_bytes()),
                    (3, ..) => column.push_bytes(b"view"),
                    _ => column.push_null(),
                }
            }
        }
        for (_, transform, state) in self.states.iter_mut().filter(|(of, ..)| *of == partition) {
            state.apply(&batch, transform.key_columns(), &transform.extract(&batch).contributions);
            let mut fields = self.store.fields.lock().unwrap();
            for write in state.drain_publish() {
                let field = match write.field {
                    Field::Header => OnlineField::Header,
                    Field::Tile(start_us) => OnlineField::Tile(start_us),
                };
                let entity = fields.entry((partition, transform.state_id(), write.key)).or_default();
                match write.value {
                    Some(value) => entity.insert(field, value),
                    None => entity.remove(&field),
                };
            }
        }
        let mut positions = self.store.positions.lock().unwrap();
        let position = positions.get_mut(&partition).unwrap();
        *position = Some(position.unwrap_or(0) + events.len() as u64);
        drop(positions);
        self
    }

    /// Says how far the store's part with a key is.
    fn part(&self, key: EntityKey, ahead: &[(u32, u64)]) {
        self.store.parts.lock().unwrap().insert(key, ahead.iter().copied().collect());
    }

    fn ask(&self, request: Request) -> Result<Answer, QueryError> {
        self.evaluator
            .query(&Query { requests: vec![request], defaults: Vec::new() })
            .map(|mut answers| answers.remove(0))
    }
}

fn serving(transforms: &[Transform], ready: &Arc<AtomicBool>) -> ServingSet {
    let one = |transform: &Transform| {
        let ready = ready.clone();
        ServingView::new(transform.clone(), Arc::new(move || ready.load(Ordering::SeqCst)))
    };
    let partitions = BTreeMap::from([("default".to_owned(), vec![0, 1])]);
    ServingSet::new(transforms.iter().map(one).collect(), partitions).unwrap()
}

fn short(fields: &[(&str, Option<&str>)]) -> Request {
    let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect();
    Request { fields, ..Request::default() }
}

fn features(names: &[&str], request: Request) -> Request {
    Request { features: Some(names.iter().map(|&name| name.to_owned()).collect()), ..request }
}

fn value(answer: &Answer, name: &str) -> Value {
    answer.features.iter().find(|(known, _)| known.as_ref() == name).unwrap().1.clone()
}

fn status(answer: &Answer, view: &str) -> Status {
    answer.views.iter().find(|known| known.view.as_ref() == view).unwrap().status
}

#[test]
fn partials_of_all_partitions_are_merged_at_t() {
    let mut world = World::new();
    world.events(0, &[(Some("u"), Some("i"), 7200), (Some("u"), Some("i"), 60), (Some("v"), Some("j"), 50)]);
    world.events(1, &[(None, Some("i"), 30), (Some("w"), None, 0)]);
    let answer = world.ask(short(&[("user_id", Some("u")), ("item_id", Some("i"))])).unwrap();
    let shown: Vec<(String, Value)> =
        answer.features.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
    let wanted = [
        ("item_view:count_1h", Value::I64(2)),
        ("item_view:count", Value::I64(3)),
        // At 12:00 the last hour has i twice and j once.
        ("item_view:rank", Value::F64(1.0)),
        ("pair_view:count_1h", Value::I64(1)),
        ("pair_view:count", Value::I64(2)),
        ("user_view:count_1h", Value::I64(1)),
        ("user_view:count", Value::I64(2)),
    ];
    assert_eq!(shown, wanted.map(|(name, value)| (name.to_owned(), value)));
    assert_eq!((answer.as_of_us, answer.position.to_string().as_str()), (NOW_US, "default:0=3,1=2"));
    let entities: Vec<_> = answer.entities.iter().map(|e| (e.entity.as_ref(), e.status, e.event_time_us)).collect();
    let times = [("item", 30), ("user_item", 60), ("user", 60)];
    assert_eq!(entities, times.map(|(name, s)| (name, Status::Found, Some(NOW_US - s * 1_000_000))));
    assert!(answer.views.iter().all(|view| view.source == ReadSource::Online && view.version.starts_with("1.0.0+")));
    // `w`'s only event is at T exactly: not before it.
    let answer = world.ask(short(&[("user_id", Some("w"))])).unwrap();
    assert_eq!((status(&answer, "user_view"), value(&answer, "user_view:count")), (Status::NotFound, Value::Null));
}

#[test]
fn one_batch_is_one_read_and_repeats_share_rows() {
    let mut world = World::new();
    world.events(0, &[(Some("u"), None, 60), (Some("v"), None, 10)]);
    let asked = [("u", None), ("v", None), ("u", None), ("u", Some(NOW_US - 60_000_000)), ("nobody", None)];
    let requests: Vec<Request> = asked
        .iter()
        .map(|&(user, as_of_us)| {
            features(&["user_view:count"], Request { as_of_us, ..short(&[("user_id", Some(user))]) })
        })
        .collect();
    let answers = world.evaluator.query(&Query { requests, defaults: Vec::new() }).unwrap();
    let counts: Vec<Value> = answers.iter().map(|answer| value(answer, "user_view:count")).collect();
    assert_eq!(counts, [Value::I64(1), Value::I64(1), Value::I64(1), Value::Null, Value::Null]);
    assert_eq!(world.store.reads.load(Ordering::SeqCst), 1);
}

#[test]
fn distributions_are_used_again_at_their_positions_only() {
    let mut world = World::new();
    world.events(0, &[(None, Some("i"), 300), (None, Some("j"), 200), (None, Some("j"), 100)]);
    let ask = |world: &World, item| {
        let before = world.store.reads.load(Ordering::SeqCst);
        let answer = world.ask(features(&["item_view:rank"], short(&[("item_id", Some(item))]))).unwrap();
        (value(&answer, "item_view:rank"), world.store.reads.load(Ordering::SeqCst) - before)
    };
    assert_eq!(ask(&world, "i"), (Value::F64(0.0), 1));
    assert_eq!(ask(&world, "j"), (Value::F64(1.0), 1));
    world.events(1, &[(None, Some("i"), 90), (None, Some("i"), 80)]);
    // The kept one is of older positions: it is seen, dropped and made again.
    assert_eq!(ask(&world, "i"), (Value::F64(1.0), 2));
    assert_eq!(ask(&world, "j"), (Value::F64(0.0), 1));
}

fn key(text: &str) -> EntityKey {
    EntityKey::from_parts(&[text])
}

#[test]
fn an_answer_from_a_part_that_is_further_says_so_and_is_computed_again_from_there() {
    let mut world = World::new();
    world.events(0, &[(Some("u"), Some("i"), 60), (Some("v"), None, 50)]);
    world.part(key("u"), &[(0, 5)]);
    let both =
        || features(&["user_view:count", "pair_view:count"], short(&[("user_id", Some("u")), ("item_id", Some("i"))]));
    let answer = world.ask(both()).unwrap();
    assert_eq!(answer.position.to_string(), "default:0=2,1=0~user_view!default:0=5");
    assert_eq!((status(&answer, "user_view"), status(&answer, "pair_view")), (Status::Found, Status::Found));
    // Each answer of a batch has the token of its own keys.
    let requests = ["v", "u"].map(|user| features(&["user_view:count"], short(&[("user_id", Some(user))]))).into();
    let answers = world.evaluator.query(&Query { requests, defaults: Vec::new() }).unwrap();
    let tokens: Vec<String> = answers.iter().map(|answer| answer.position.to_string()).collect();
    assert_eq!(tokens, ["default:0=2,1=0", "default:0=2,1=0~user_view!default:0=5"]);
    // The archive is asked where each view was, and answers with the same token.
    let again = world.evaluator.history(&both(), Some(&answer.position)).unwrap();
    assert_eq!(again.position, answer.position);
    let asked = |view: &str| {
        let asked = world.history.asked.lock().unwrap();
        asked.iter().rev().find(|(name, ..)| name == view).and_then(|(.., position)| position.clone()).unwrap()
    };
    assert_eq!(asked("user_view"), BTreeMap::from([(0, 5), (1, 0)]));
    assert_eq!(asked("pair_view"), BTreeMap::from([(0, 2), (1, 0)]));
}

#[test]
fn what_only_the_archive_can_answer_is_asked_where_the_part_was() {
    let mut world = World::new();
    for before_s in [30 * 86_400, 1] {
        world.events(0, &[(Some("u"), None, before_s), (Some("v"), None, before_s)]);
    }
    world.part(key("u"), &[(1, 3)]);
    let old = |user| {
        let as_of_us = Some(NOW_US - 30 * DAY_US + 1_000_000);
        features(&["user_view:*"], Request { as_of_us, ..short(&[("user_id", Some(user))]) })
    };
    let requests = vec![old("u"), old("v")];
    let answers = world.evaluator.query(&Query { requests, defaults: Vec::new() }).unwrap();
    assert!(answers.iter().all(|answer| answer.views[0].source == ReadSource::Offline));
    let mut asked: Vec<_> = world.history.asked.lock().unwrap().iter().map(|(.., position)| position.clone()).collect();
    asked.sort();
    assert_eq!(asked, [Some(BTreeMap::from([(0, 4), (1, 0)])), Some(BTreeMap::from([(0, 4), (1, 3)]))]);
}

#[test]
fn a_lost_part_is_rebuilding_and_the_others_answer() {
    let mut world = World::new();
    world.events(0, &[(Some("u"), Some("i"), 60), (Some("v"), None, 50)]);
    world.part(key("u"), &[]);
    let defaults = vec![("user_view:count".to_owned(), json!(0))];
    let requests = vec![short(&[("user_id", Some("u"))]), short(&[("user_id", Some("v"))])];
    let answers = world.evaluator.query(&Query { requests: requests.clone(), defaults }).unwrap();
    assert_eq!(status(&answers[0], "user_view"), Status::Rebuilding);
    assert_eq!(value(&answers[0], "user_view:count_1h"), Value::Null);
    assert_eq!(
        (status(&answers[1], "user_view"), value(&answers[1], "user_view:count")),
        (Status::Found, Value::I64(1))
    );
    assert!(matches!(world.ask(requests[0].clone()), Err(QueryError::Rebuilding)));
    // A view whose ranks are lost cannot answer for any key.
    world.part(global_key(0), &[]);
    let before = world.store.reads.load(Ordering::SeqCst);
    assert!(matches!(world.ask(short(&[("item_id", Some("i"))])), Err(QueryError::Rebuilding)));
    assert_eq!(world.store.reads.load(Ordering::SeqCst) - before, 1, "there is nothing to wait for");
}

#[test]
fn a_key_and_its_ranks_are_of_one_position() {
    let mut world = World::new();
    world.events(0, &[(None, Some("i"), 300), (None, Some("j"), 200), (None, Some("j"), 100)]);
    let ask = |world: &World| world.ask(features(&["item_view:rank"], short(&[("item_id", Some("j"))])));
    let rank = |answer: &Answer| (value(answer, "item_view:rank"), answer.position.to_string());
    // Both are further by the same.
    world.part(key("j"), &[(0, 4)]);
    world.part(global_key(0), &[(0, 4)]);
    assert_eq!(rank(&ask(&world).unwrap()), (Value::F64(1.0), "default:0=3,1=0~item_view!default:0=4".into()));
    // The ranks kept from there are not those of the position itself.
    world.store.parts.lock().unwrap().clear();
    world.events(0, &[(None, Some("i"), 90), (None, Some("i"), 80)]);
    assert_eq!(rank(&ask(&world).unwrap()), (Value::F64(0.0), "default:0=5,1=0".into()));
    // One is further than the other until the publish is over: the third read.
    world.part(key("j"), &[(0, 6)]);
    let before = world.store.reads.load(Ordering::SeqCst);
    world.store.whole_after.store(before + 3, Ordering::SeqCst);
    assert_eq!(rank(&ask(&world).unwrap()), (Value::F64(0.0), "default:0=5,1=0".into()));
    assert!(world.store.reads.load(Ordering::SeqCst) >= before + 3);
    // The ranks alone are further: those that are kept are of the position.
    world.part(global_key(0), &[(0, 6)]);
    assert_eq!(rank(&ask(&world).unwrap()), (Value::F64(0.0), "default:0=5,1=0".into()));
    // Of two positions for ever: nothing is said rather than something of both.
    world.part(key("j"), &[(0, 7)]);
    assert!(matches!(ask(&world), Err(QueryError::Rebuilding)));
    // A view without ranks does not wait for it.
    let answer = world.ask(short(&[("item_id", Some("j")), ("user_id", Some("u"))])).unwrap();
    assert_eq!((status(&answer, "item_view"), status(&answer, "pair_view")), (Status::Rebuilding, Status::NotFound));
}

#[test]
fn null_keys_and_defaults() {
    let mut world = World::new();
    world.events(0, &[(Some("u"), None, 60)]);
    let requests = vec![short(&[("user_id", None)]), short(&[("user_id", Some("u"))]), short(&[("user_id", Some(""))])];
    let defaults = vec![("user_view:count".to_owned(), json!(-1))];
    let answers = world.evaluator.query(&Query { requests, defaults }).unwrap();
    assert_eq!(status(&answers[0], "user_view"), Status::NotFound);
    assert_eq!(value(&answers[0], "user_view:count"), Value::Default(Arc::new(json!(-1))));
    assert_eq!(value(&answers[0], "user_view:count_1h"), Value::Null);
    assert_eq!(value(&answers[1], "user_view:count"), Value::I64(1));
    assert_eq!(status(&answers[2], "user_view"), Status::NotFound);
    assert_eq!(answers[0].position.to_string(), "default:0=1,1=0");
}

#[test]
fn what_state_has_folded_comes_from_the_archive_at_the_same_position() {
    let mut world = World::new();
    // The first event is far below the floor once the second has come, and its tile is folded.
    for before_s in [30 * 86_400, 1] {
        world.events(0, &[(Some("u"), Some("i"), before_s)]);
    }
    // An instant inside that tile cannot be answered from it; one after it can, exactly.
    let at = |as_of_us| Request { as_of_us: Some(as_of_us), ..short(&[("user_id", Some("u"))]) };
    let later = world.ask(at(NOW_US - 20 * DAY_US)).unwrap();
    assert_eq!((later.views[0].source, value(&later, "user_view:count")), (ReadSource::Online, Value::I64(1)));
    let old = at(NOW_US - 30 * DAY_US + 1_000_000);
    let answer = world.ask(features(&["user_view:*"], old.clone())).unwrap();
    assert_eq!(answer.views[0].source, ReadSource::Offline);
    assert_eq!(value(&answer, "user_view:count"), Value::I64(77));
    let positions = BTreeMap::from([(0, 2), (1, 0)]);
    assert_eq!(*world.history.asked.lock().unwrap(), [("user_view".to_owned(), 1, Some(positions))]);
    // Nobody else is sent there: an unknown user is unknown at any T.
    let unknown = Request { fields: vec![("user_id".into(), Some("x".into()))], ..old };
    assert_eq!(status(&world.ask(unknown).unwrap(), "user_view"), Status::NotFound);
    assert_eq!(world.history.asked.lock().unwrap().len(), 1);
}

#[test]
fn the_archive_can_be_asked_directly() {
    let world = World::new();
    let both = short(&[("user_id", Some("u")), ("item_id", Some("i"))]);
    let answer = world.evaluator.history(&both, None).unwrap();
    assert_eq!((answer.position.to_string().as_str(), answer.views.len()), ("default:0=100,1=100", 3));
    assert!(answer.views.iter().all(|view| view.source == ReadSource::Offline));
    // The first view found out what "all" is; the others are asked at the same position.
    let all = BTreeMap::from([(0, 100), (1, 100)]);
    let asked: Vec<_> = world.history.asked.lock().unwrap().iter().map(|(_, _, position)| position.clone()).collect();
    assert_eq!(asked, [None, Some(all.clone()), Some(all)]);
    let token = Position::parse("default:0=3,1=4").unwrap();
    let answer = world.evaluator.history(&both, Some(&token)).unwrap();
    assert_eq!(*answer.position, token);
    let other = Position::parse("clicks:0=3").unwrap();
    assert!(world.evaluator.history(&both, Some(&other)).unwrap_err().to_string().contains("says nothing of source"));
}

#[test]
fn a_stale_view_is_outside_its_max_age_and_a_poor_row_an_error() {
    let mut world = World::with_ttl(Some(HOUR_US));
    world.events(0, &[(Some("old"), None, 3601), (Some("edge"), None, 3600)]);
    world.events(1, &(0..6).map(|_| (Some("many"), None, 5)).collect::<Vec<_>>());
    let requests = ["old", "edge", "many"].map(|user| short(&[("user_id", Some(user))])).into();
    let answers = world.evaluator.query(&Query { requests, defaults: Vec::new() }).unwrap();
    let shown: Vec<(Status, Value)> =
        answers.iter().map(|answer| (status(answer, "user_view"), value(answer, "user_view:count"))).collect();
    let wanted = [(Status::OutsideMaxAge, Value::Null), (Status::Found, Value::I64(1)), (Status::Error, Value::Null)];
    assert_eq!(shown, wanted);
    assert_eq!(answers[0].entities[0].event_time_us, Some(NOW_US - 3_601_000_000));
}

#[test]
fn what_is_not_there_yet_is_not_zero() {
    let mut world = World::new();
    world.events(0, &[(Some("u"), None, 60)]);
    let user = || short(&[("user_id", Some("u"))]);
    world.ready.store(false, Ordering::SeqCst);
    let answer = world.ask(user()).unwrap();
    assert_eq!((status(&answer, "user_view"), value(&answer, "user_view:count")), (Status::Warming, Value::Null));
    world.ready.store(true, Ordering::SeqCst);
    world.store.positions.lock().unwrap().insert(1, None);
    assert!(matches!(world.ask(user()), Err(QueryError::Rebuilding)));
    assert!(matches!(world.ask(short(&[("user_id", None)])), Err(QueryError::Rebuilding)));
    world.store.positions.lock().unwrap().remove(&1);
    assert!(matches!(world.ask(user()), Err(QueryError::Rebuilding)), "a partition that is not named is not there");
}

#[test]
fn a_view_swapped_during_a_read_is_answered_by_its_successor() {
    /// Replaces the views during the first read.
    struct Swapping(Arc<MemoryStore>, Arc<FixedViews>, Arc<ServingSet>, Arc<AtomicBool>);
    impl OnlineStore for Swapping {
        fn claim(&self, source: &str, partition: u32, generation: u64) -> Result<Option<u64>> {
            self.0.claim(source, partition, generation)
        }
        fn publish(
            &self,
            _: &str,
            _: u32,
            _: u64,
            _: Option<u64>,
            _: u64,
            _: &[OnlineWrite],
        ) -> Result<PublishOutcome> {
            Err(Error::internal("not of these tests"))
        }
        fn clear(&self, source: &str, partition: u32, generation: u64, state: Option<StateId>) -> Result<()> {
            self.0.clear(source, partition, generation, state)
        }
        fn rebuild(&self, _: &str, _: u32, _: u64, _: &[OnlineWrite]) -> Result<PublishOutcome> {
            Err(Error::internal("not of these tests"))
        }
        fn read(&self, source: &str, partitions: &[u32], reads: &[OnlineRead]) -> Result<OnlineAnswer> {
            *self.1.0.lock().unwrap() = self.2.clone();
            self.3.store(false, Ordering::SeqCst);
            self.0.read(source, partitions, reads)
        }
    }
    let mut world = World::new();
    world.events(0, &[(Some("u"), None, 60)]);
    let successor = Arc::new(serving(&world.transforms, &Arc::new(AtomicBool::new(true))));
    let store = Swapping(world.store.clone(), world.views.clone(), successor, world.ready.clone());
    let evaluator = Evaluator::new(world.views.clone(), Arc::new(store), world.history.clone(), Arc::new(Stopped));
    let query = Query { requests: vec![short(&[("user_id", Some("u"))])], defaults: Vec::new() };
    let answers = evaluator.query(&query).unwrap();
    assert_eq!(status(&answers[0], "user_view"), Status::Found);
}

#[test]
fn mistakes_are_named() {
    let world = World::new();
    let entity = |name: &str, key| Request { entities: vec![(name.into(), key)], ..Request::default() };
    let text = |text: &str| KeyInput::Value(Some(text.into()));
    let fields = |fields: &[(&str, Option<&str>)]| {
        KeyInput::Fields(fields.iter().map(|&(name, value)| (name.into(), value.map(str::to_owned))).collect())
    };
    let user = || short(&[("user_id", Some("u"))]);
    for (request, wanted) in [
        (features(&["user_view:cout"], user()), "unknown feature `user_view:cout`; did you mean `user_view:count`"),
        (features(&["count_1h"], user()), "unknown feature `count_1h`; did you mean"),
        (features(&["user_vew:count"], user()), "unknown view `user_vew`; did you mean `user_view`?"),
        (features(&["zebra:*"], user()), "unknown view `zebra`; known are `item_view`, `pair_view`, `user_view`"),
        (features(&[], user()), "`features` is empty"),
        (features(&["item_view:*"], user()), "`item_view:*` needs the key of entity `item` (`item_id`)"),
        (
            features(&["pair_view:*"], user()),
            "`pair_view:*` needs the key of entity `user_item` (`user_id`, `item_id`)",
        ),
        (short(&[("user", Some("u"))]), "unknown field `user`; did you mean `user_id`?"),
        (entity("usr", text("u")), "unknown entity `usr`; did you mean `user`"),
        (entity("user_item", text("u")), "entity `user_item` has the key fields `user_id`, `item_id`: give an object"),
        (
            entity("user_item", fields(&[("user_id", Some("u"))])),
            "the key of entity `user_item` lacks its field `item_id`",
        ),
        (entity("user", fields(&[("usr_id", None)])), "unknown field `usr_id`; did you mean `user_id`?"),
        (
            Request { as_of_us: Some(NOW_US + 1), ..user() },
            "as_of 2026-01-31T12:00:00.000001Z is later than the server's clock 2026-01-31T12:00:00.000000Z",
        ),
    ] {
        let QueryError::InBatch { index: 0, error } = world.ask(request).unwrap_err() else { panic!("{wanted}") };
        assert!(error.to_string().starts_with(wanted), "\n  got     {error}\n  wanted  {wanted}");
    }
    for (name, default, wanted) in [
        ("user_view:cnt", json!(1), "unknown feature `user_view:cnt`"),
        ("user_view:count", json!(1.5), "the default of `user_view:count` is 1.5, the feature is of type i64"),
        ("item_view:rank", json!("x"), "the feature is of type f64"),
    ] {
        let query = Query { requests: vec![user()], defaults: vec![(name.into(), default)] };
        let error = world.evaluator.query(&query).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
    let composite = entity("user_item", fields(&[("user_id", Some("u")), ("item_id", None)]));
    assert_eq!(status(&world.ask(composite).unwrap(), "pair_view"), Status::NotFound, "a null part is a null key");
    let error = features(&["user_view:cout"], user());
    let QueryError::InBatch { error, .. } = world.ask(error).unwrap_err() else { panic!() };
    assert!(matches!(*error, QueryError::Unknown { what: Named::Feature, .. }));
}

#[test]
fn views_of_a_job_follow_its_swaps_and_hold_no_set() {
    let world = World::new();
    let set = |waiting| {
        let ready = Arc::new(Readiness::waiting_for(waiting));
        vec![ActiveView { transform: world.transforms[0].clone(), ready }]
    };
    let active = Arc::new(ArcSwap::from_pointee(set(1)));
    let roster = Arc::new(Roster::new(BTreeMap::from([("default".to_owned(), vec![0])])));
    let views = RuntimeViews::new(active.clone(), roster);
    let first = views.current();
    assert!(!first.set.views[0].is_ready());
    assert!(Arc::ptr_eq(&first.set, &views.current().set), "an unchanged set is made once");
    let before = active.swap(Arc::new(set(0)));
    assert_eq!(Arc::strong_count(&before), 2, "a query under way holds its set");
    drop(first);
    assert_eq!(Arc::strong_count(&before), 1);
    assert!(views.current().set.views[0].is_ready());
    let of_another = RuntimeViews::new(active, Arc::new(Roster::new(BTreeMap::new())));
    assert!(of_another.current().set.views.is_empty());
}
