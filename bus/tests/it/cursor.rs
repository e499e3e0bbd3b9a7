//! What `Subscription::cursor` promises (the random test in `delivery.rs` checks it after every action).

use std::collections::VecDeque;

use atra_bus::Seq;

use crate::support::{Fixture, interest};

#[tokio::test]
async fn the_cursor_moves_over_what_is_not_wanted_without_being_read() {
    let mut fixture = Fixture::new(8);
    let subscription = fixture.bus.subscribe(interest(&["a"]), Seq::ZERO);
    assert_eq!(subscription.cursor(), Seq(0));
    fixture.release(&[("b", "x")]);
    assert_eq!(subscription.cursor(), Seq(1));
    fixture.release(&[("b", "x"), ("c", "x")]);
    assert_eq!(subscription.cursor(), Seq(3));
}

#[tokio::test]
async fn the_cursor_stops_before_what_is_wanted_until_it_is_taken() {
    let mut fixture = Fixture::new(8);
    let mut subscription = fixture.bus.subscribe(interest(&["a"]), Seq::ZERO);
    fixture.release(&[("b", "x"), ("b", "x"), ("a", "x"), ("b", "x"), ("a", "x"), ("b", "x")]);
    assert_eq!(subscription.cursor(), Seq(2));
    subscription.take_ready(&mut VecDeque::new(), 1);
    assert_eq!(subscription.cursor(), Seq(4));
    subscription.take_ready(&mut VecDeque::new(), 1);
    assert_eq!(subscription.cursor(), Seq(6));
}

#[tokio::test]
async fn the_cursor_of_a_lagging_reader_stops_before_what_it_missed() {
    let mut fixture = Fixture::with(2, 0, 100);
    let mut subscription = fixture.bus.subscribe(interest(&["a"]), Seq::ZERO);
    for _ in 0..4 {
        fixture.release(&[("a", "x")]);
        fixture.release(&[("b", "x")]);
    }
    assert_eq!((subscription.lagged(), subscription.cursor()), (1, Seq(0)));
    subscription.take_ready(&mut VecDeque::new(), 9);
    assert_eq!(subscription.cursor(), Seq(4), "5 was missed");
    assert!(subscription.ready().await);
    assert_eq!(subscription.cursor(), Seq(4), "read, but not handed out");
    subscription.take_ready(&mut VecDeque::new(), 9);
    assert_eq!(subscription.cursor(), Seq(8));
    fixture.release(&[("b", "x")]);
    assert_eq!(subscription.cursor(), Seq(9));
}

#[tokio::test]
async fn a_subscriber_whose_start_lies_in_the_past_has_its_start_as_cursor() {
    let mut fixture = Fixture::new(8);
    fixture.bus.set_released(Seq::ZERO);
    fixture.release(&[("b", "x"), ("b", "x")]);
    let mut subscription = fixture.bus.subscribe(interest(&["a"]), Seq(1));
    assert_eq!(subscription.cursor(), Seq(1));
    fixture.bus.close();
    assert!(subscription.next().await.is_none());
    assert_eq!(subscription.cursor(), Seq(2));
}

/// While another thread releases, no wanted event may lie at or below the cursor and still come.
#[test]
fn nothing_at_or_below_the_cursor_ever_comes_while_releases_race() {
    let mut fixture = Fixture::with(64, 0, 64);
    // Ahead in the line, so that there is time between raising `released` and filling the last queue.
    let ahead: Vec<_> = (0..100).map(|_| fixture.bus.subscribe(interest(&["a"]), Seq::ZERO)).collect();
    let mut subscription = fixture.bus.subscribe(interest(&["a"]), Seq::ZERO);
    let bus = fixture.bus.clone();
    let batches: Vec<_> = (0..20_000).map(|n| fixture.commit(&[(if n % 3 == 0 { "a" } else { "b" }, "x")])).collect();
    let releaser = std::thread::spawn(move || {
        batches.iter().for_each(|batch| bus.release(batch));
        bus.close();
    });
    let mut taken = VecDeque::new();
    let mut n = 0;
    let mut cursor = Seq::ZERO;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    loop {
        let more = runtime.block_on(subscription.ready());
        for _ in 0..3 {
            cursor = cursor.max(subscription.cursor());
            subscription.take_ready(&mut taken, 1);
            if let Some(event) = taken.pop_front() {
                assert!(event.seq <= fixture.bus.released(), "{} came before it was released", event.seq);
                assert!(event.seq > cursor, "{} came, but the cursor was {cursor}", event.seq);
                n += 1;
            }
        }
        if !more {
            break;
        }
    }
    releaser.join().unwrap();
    drop(ahead);
    assert_eq!(n, 6_667);
    assert_eq!(subscription.cursor(), Seq(20_000));
}
