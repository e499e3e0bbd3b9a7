//! Payloads: an accepted payload decodes unchanged for every reader and type.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use atra_bus::{Draft, EventType, NESTING_MAX, Payload, PayloadError, Topic, encode, round_trip};
use proptest::{collection, prelude::*};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use serde_json::{Value, json, value::RawValue};

fn refused<T: Serialize>(value: T) -> String {
    encode(&value).expect_err("refused").to_string()
}

// === readers ===

#[test]
fn any_number_of_readers_with_any_types_see_what_the_json_says_in_any_order() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Part {
        a: f64,
    }
    let payloads: [fn() -> Payload; 3] = [
        || Payload::typed(json!({ "a": 1.5, "b": 2 })),
        || Payload::from_json(r#"{"a":1.5,"b":2}"#).unwrap(),
        || Payload::from_journal(r#"{"a":1.5,"b":2}"#.into()),
    ];
    let part = |payload: &Payload| assert_eq!(payload.get::<Part>().unwrap(), &Part { a: 1.5 });
    let value = |payload: &Payload| assert_eq!(payload.get::<Value>().unwrap()["b"], 2);
    let map = |payload: &Payload| assert_eq!(payload.get::<BTreeMap<String, f64>>().unwrap()["b"], 2.0);
    let wrong = |payload: &Payload| assert!(matches!(payload.get::<String>(), Err(PayloadError::Shape { .. })));
    for make in payloads {
        let readers: [&dyn Fn(&Payload); 4] = [&part, &value, &map, &wrong];
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
            let payload = make();
            let first: *const Part = payload.get().unwrap();
            for _ in 0..2 {
                order.iter().for_each(|at| readers[*at](&payload));
            }
            assert!(std::ptr::eq(first, payload.get::<Part>().unwrap()), "decoded once, then shared");
        }
    }
}

#[test]
fn readers_on_several_threads_share_one_value_of_each_type() {
    for _ in 0..50 {
        let payload = Payload::typed(7_u8);
        let places: Vec<(usize, usize)> = std::thread::scope(|scope| {
            let read = || {
                let one: *const u8 = payload.get().unwrap();
                let other: *const u64 = payload.get().unwrap();
                (one as usize, other as usize)
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(read)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(places.iter().all(|place| *place == places[0]));
    }
}

// === what is refused ===

#[test]
fn what_cannot_be_read_back_is_refused_with_its_place() {
    #[derive(Serialize)]
    struct Level {
        price: f64,
    }
    #[derive(Serialize)]
    #[serde(tag = "kind")]
    enum Tagged {
        A(Inner),
    }
    #[derive(Serialize)]
    struct Inner {
        kind: u8,
    }
    let levels = [1.0, 2.0, f64::NAN].map(|price| Level { price });
    assert!(
        refused(json!({}).as_object().map(|_| BTreeMap::from([("levels", levels)])))
            .contains("$.levels[2].price is NaN")
    );
    assert!(refused(f32::INFINITY).contains("$ is infinity"));
    assert!(refused(Some(vec![(1, f64::NEG_INFINITY)])).contains("$[0][1] is -infinity"));
    assert!(refused([u128::MAX]).contains("$[0] is 340282366920938463463374607431768211455, outside"));
    assert!(refused(i128::from(i64::MIN) - 1).contains("outside the integers"));
    assert!(refused(Some(Option::<u8>::None)).contains("$ is Some of a value that JSON writes as null"));
    assert!(refused(Some(())).contains("read back as None"));
    assert!(refused(BTreeMap::from([(vec![1], 1)])).contains("a map key that is a sequence"));
    assert!(refused(BTreeMap::from([((), 1)])).contains("a map key that is ()"));
    assert!(refused(Tagged::A(Inner { kind: 1 })).contains(r#"has the key "kind" more than once"#));
    let odd = BTreeMap::from([("", 1.0), ("a b", f64::NAN)]);
    assert!(refused(odd).contains(r#"$["a b"] is NaN"#));
}

#[test]
fn a_key_that_is_there_twice_is_refused_whatever_its_type() {
    struct Pairs(Vec<(&'static str, u8)>);
    impl Serialize for Pairs {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(None)?;
            self.0.iter().try_for_each(|(key, value)| map.serialize_entry(key, value))?;
            map.end()
        }
    }
    #[derive(Serialize)]
    struct Flat {
        a: u8,
        #[serde(flatten)]
        more: BTreeMap<&'static str, u8>,
    }
    assert!(encode(&Pairs(vec![("b", 1), ("a", 2), ("c", 3)])).is_ok());
    assert!(refused(Pairs(vec![("b", 1), ("a", 2), ("b", 3)])).contains(r#"$ has the key "b" more than once"#));
    assert!(refused(Flat { a: 1, more: BTreeMap::from([("a", 2)]) }).contains(r#"the key "a" more than once"#));
    // 1 and "1" are one key in JSON.
    #[derive(Serialize, PartialEq, Eq, PartialOrd, Ord)]
    #[serde(untagged)]
    enum Key {
        Number(u8),
        Text(String),
    }
    let keys = BTreeMap::from([(Key::Number(1), 0), (Key::Text("1".into()), 0)]);
    assert!(refused(keys).contains(r#"the key "1" more than once"#));
}

#[test]
fn nesting_is_accepted_up_to_the_limit_and_recursion_ends() {
    let nested = |n: u32| (0..n).fold(json!(0), |value, _| json!([value]));
    assert!(encode(&nested(NESTING_MAX)).is_ok());
    assert!(refused(nested(NESTING_MAX + 1)).contains("nested deeper than 120 levels"));
    #[derive(Serialize)]
    struct Chain(Option<Box<Chain>>);
    let chain = (0..5_000).fold(Chain(None), |chain, _| Chain(Some(Box::new(chain))));
    assert!(refused(chain).contains("nested deeper"));
}

#[test]
fn json_text_inside_a_value_is_checked_as_any_other() {
    let raw = |text: &str| RawValue::from_string(text.into()).unwrap();
    assert_eq!(&*encode(&[raw(" 1 ")]).unwrap(), "[1]");
    assert!(refused(Some(raw("null"))).contains("read back as None"));
    // Generic readers would take the text for the value.
    let posing = json!({ "$serde_json::private::RawValue": "[1, 2]" });
    assert!(refused(&posing).contains("which the decoder reserves"));
    assert!(refused([raw(r#"{"a":1,"a":2}"#)]).contains(r#"$[0] has the key "a" more than once"#));
    let deep = "[".repeat(NESTING_MAX as usize) + &"]".repeat(NESTING_MAX as usize);
    assert!(encode(&raw(&deep)).is_ok());
    assert!(refused([raw(&deep)]).contains("nested deeper"));
}

#[test]
fn json_text_from_outside_is_checked() {
    for text in ["", r#"{"a":"#, "NaN", "1 1", r#"{"a":1,"a":1}"#, "18446744073709551616"] {
        assert!(Payload::from_json(text).is_err(), "{text}");
    }
    let spaced = Payload::from_json(" null\n").unwrap();
    assert!(spaced.is_null() && spaced.json().unwrap() == "null");
    assert!(!Payload::typed(f64::NAN).is_null());
}

// === events ===

macro_rules! event {
    ($type:ty) => {
        impl EventType for $type {
            const TOPIC: Topic = Topic::literal("test.value");
        }
    };
}

/// The payload as another process would read it.
fn restarted(payload: &Payload) -> Payload {
    Payload::from_journal(Arc::clone(payload.shared_json().unwrap()))
}

#[test]
fn readers_of_an_event_see_the_same_before_and_after_a_restart() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Skips {
        kept: u8,
        #[serde(skip)]
        left_out: u8,
        #[serde(serialize_with = "rounded")]
        price: f64,
    }
    fn rounded<S: Serializer>(price: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(price.round())
    }
    event!(Skips);
    let payload = Draft::from(Skips { kept: 1, left_out: 2, price: 1.4 }).payload;
    let seen = Skips { kept: 1, left_out: 0, price: 1.0 };
    assert_eq!(payload.get::<Skips>().unwrap(), &seen);
    assert_eq!(restarted(&payload).get::<Skips>().unwrap(), &seen);
}

#[test]
fn an_event_whose_text_its_type_does_not_decode_or_decodes_otherwise_is_refused() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Renamed {
        #[serde(rename(serialize = "a", deserialize = "b"))]
        n: u8,
    }
    event!(Renamed);
    let refused = Draft::from(Renamed { n: 1 }).payload.json().unwrap_err();
    assert!(matches!(refused, PayloadError::NotReadBack { .. }), "{refused}");

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Letter(char),
    }
    event!(Either);
    assert!(Draft::from(Either::Text("x".into())).payload.check().is_ok());
    let refused = Draft::from(Either::Letter('x')).payload.json().unwrap_err();
    assert!(matches!(refused, PayloadError::Changed { .. }), "{refused}");

    #[derive(Debug, Serialize, Deserialize)]
    struct Maybe(Option<Option<u8>>);
    event!(Maybe);
    assert!(Draft::from(Maybe(None)).payload.check().is_ok());
    assert!(Draft::from(Maybe(Some(Some(1)))).payload.check().is_ok());
    assert!(Draft::from(Maybe(Some(None))).payload.check().is_err());
}

/// What a field's absence means is the type's own affair, if it comes back.
#[test]
fn a_type_that_tells_none_from_absent_keeps_both() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Patch {
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
        n: Option<Option<u8>>,
    }
    fn present<'de, D: serde::Deserializer<'de>>(decoder: D) -> Result<Option<Option<u8>>, D::Error> {
        Option::deserialize(decoder).map(Some)
    }
    event!(Patch);
    for n in [None, Some(None), Some(Some(1))] {
        let payload = Draft::from(Patch { n }).payload;
        assert_eq!(payload.get::<Patch>().unwrap(), &Patch { n });
        assert_eq!(restarted(&payload).get::<Patch>().unwrap(), &Patch { n });
    }
}

#[test]
fn hash_maps_and_sets_come_back_in_another_order_and_are_accepted() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Hashed {
        map: HashMap<String, u32>,
        set: HashSet<u32>,
    }
    event!(Hashed);
    let value = || Hashed { map: (0..100).map(|n| (n.to_string(), n)).collect(), set: (0..100).collect() };
    let payload = Draft::from(value()).payload;
    assert_eq!(payload.get::<Hashed>().unwrap(), &value());
}

#[test]
fn a_type_that_promises_to_come_back_shares_the_published_value_and_debug_builds_hold_it_to_that() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Honest(Vec<f64>);
    impl EventType for Honest {
        const TOPIC: Topic = Topic::literal("test.honest");
        const EXACT: Option<fn(&Self, &Self) -> bool> = Some(PartialEq::eq);
    }
    let numbers = vec![1.5];
    let at = numbers.as_ptr();
    let payload = Draft::from(Honest(numbers)).payload;
    assert!(std::ptr::eq(payload.get::<Honest>().unwrap().0.as_ptr(), at));
    assert_eq!(payload.get::<Value>().unwrap(), &json!([1.5]));
    assert_eq!(payload.json().unwrap(), "[1.5]");
    assert!(Draft::from(Honest(vec![f64::NAN])).payload.check().is_err());

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Liar {
        #[serde(skip)]
        left_out: u8,
    }
    impl EventType for Liar {
        const TOPIC: Topic = Topic::literal("test.liar");
        const EXACT: Option<fn(&Self, &Self) -> bool> = Some(PartialEq::eq);
    }
    assert!(Draft::from(Liar { left_out: 0 }).payload.check().is_ok());
    assert!(!cfg!(debug_assertions) || Draft::from(Liar { left_out: 1 }).payload.check().is_err());
}

/// The last holder may be the storage's thread, which must not end by it.
#[test]
fn a_value_whose_drop_panics_harms_nobody_who_holds_its_payload() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Bomb(u8);
    impl Drop for Bomb {
        fn drop(&mut self) {
            assert!(self.0 == 0, "a planted panic");
        }
    }
    let payload = Payload::typed(1_u8);
    payload.get::<Bomb>().unwrap();
    drop(payload);
}

// === any value ===

/// One of everything that serde knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Sample {
    int: i64,
    large: u128,
    small: i128,
    float: f64,
    single: f32,
    text: String,
    letter: char,
    unit: (),
    maybe: Option<Option<u8>>,
    list: Vec<Shape>,
    tuple: (bool, Option<String>),
    by_text: BTreeMap<String, f64>,
    by_number: BTreeMap<i32, u8>,
    by_letter: BTreeMap<char, bool>,
    any: Value,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    left_out: Vec<u8>,
    #[serde(flatten)]
    rest: BTreeMap<String, i32>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Shape {
    Unit,
    New(f64),
    Tuple(u8, String),
    Struct { a: Option<()>, b: Inside },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", content = "c")]
enum Inside {
    One(Untagged),
    Two { x: f32 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Int(i64),
    Float(f64),
    Letter(char),
    Text(String),
    Null,
}

event!(Sample);

fn float() -> impl Strategy<Value = f64> {
    prop_oneof![30 => any::<f64>(), 1 => Just(f64::NAN), 1 => Just(f64::INFINITY), 3 => Just(-0.0)]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            collection::btree_map(".{0,3}", inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

fn shape() -> impl Strategy<Value = Shape> {
    let untagged = prop_oneof![
        any::<i64>().prop_map(Untagged::Int),
        float().prop_map(Untagged::Float),
        any::<char>().prop_map(Untagged::Letter),
        ".{0,3}".prop_map(Untagged::Text),
        Just(Untagged::Null),
    ];
    let inside = prop_oneof![untagged.prop_map(Inside::One), any::<f32>().prop_map(|x| Inside::Two { x })];
    prop_oneof![
        Just(Shape::Unit),
        float().prop_map(Shape::New),
        (any::<u8>(), ".{0,3}").prop_map(|(n, text)| Shape::Tuple(n, text)),
        (any::<bool>(), inside).prop_map(|(some, b)| Shape::Struct { a: some.then_some(()), b }),
    ]
}

prop_compose! {
    fn sample()(
        (int, large, small, floats) in (
            any::<i64>(),
            prop_oneof![any::<u64>().prop_map(u128::from), any::<u128>()],
            prop_oneof![any::<i64>().prop_map(i128::from), any::<i128>()],
            (float(), any::<f32>()),
        ),
        (text, letter, maybe) in (".{0,5}", any::<char>(), any::<Option<Option<u8>>>()),
        list in collection::vec(shape(), 0..4),
        tuple in (any::<bool>(), any::<Option<String>>()),
        by_text in collection::btree_map(".{0,3}", float(), 0..4),
        by_number in collection::btree_map(any::<i32>(), any::<u8>(), 0..4),
        by_letter in collection::btree_map(any::<char>(), any::<bool>(), 0..4),
        any in value(),
        left_out in collection::vec(any::<u8>(), 0..3),
        rest in collection::btree_map("[a-z]{0,4}", any::<i32>(), 0..3),
    ) -> Sample {
        let (float, single) = floats;
        let unit = ();
        Sample {
            int, large, small, float, single, text, letter, unit, maybe, list, tuple, by_text, by_number, by_letter, any,
            left_out, rest,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The digest of what a run decided is made of these bytes.
    #[test]
    fn the_text_of_an_accepted_value_is_what_serde_json_writes(sample in sample(), value in value()) {
        prop_assert_eq!(&*encode(&value).unwrap(), serde_json::to_string(&value).unwrap());
        if let Ok(text) = encode(&sample) {
            prop_assert_eq!(&*text, serde_json::to_string(&sample).unwrap());
        }
    }

    #[test]
    fn an_event_is_refused_or_comes_back_equal(sample in sample()) {
        let payload = Draft::from(sample.clone()).payload;
        if payload.check().is_ok() {
            prop_assert_eq!(payload.get::<Sample>().unwrap(), &sample);
            let restarted = restarted(&payload);
            prop_assert_eq!(restarted.get::<Sample>().unwrap(), &sample);
        }
    }

    #[test]
    fn what_the_encoder_writes_is_accepted_as_text(sample in sample()) {
        if let Ok(text) = encode(&sample) {
            prop_assert!(Payload::from_json(&*text).is_ok(), "{}", text);
        }
    }

    #[test]
    fn a_plain_value_always_comes_back(value in value()) {
        let (text, decoded) = round_trip(&value).unwrap();
        prop_assert_eq!(&decoded, &value);
        prop_assert_eq!(Payload::from_json(&*text).unwrap().to_value().unwrap(), value);
    }
}

/// Killed runs once differed from whole ones because the default float parser is not exact.
#[test]
fn floats_survive_a_round_trip_bit_for_bit() {
    let mut bits = 0x3ff0_0000_0000_0001_u64;
    for _ in 0..10_000 {
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let value = f64::from_bits(bits);
        if value.is_finite() {
            let back: f64 = serde_json::from_str(&encode(&value).unwrap()).unwrap();
            assert_eq!(back.to_bits(), value.to_bits(), "serde_json must be built with float_roundtrip");
        }
    }
}
