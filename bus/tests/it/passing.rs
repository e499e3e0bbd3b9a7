//! Observers of passing events.

use atra_bus::Topic;
use futures::FutureExt;

use crate::support::{Fixture, event, interest, interest_except};

#[tokio::test]
async fn what_does_not_fit_is_counted_and_what_is_queued_stays() {
    let fixture = Fixture::new(8);
    let mut observer = fixture.bus.observe(interest(&["a.*"]), 2);
    let events: Vec<_> = ["a.1", "b", "a.2", "a.3", "a.4"].iter().map(|topic| event(topic, "x", false)).collect();
    fixture.bus.pass(&events);
    assert_eq!(observer.dropped(), 2);
    assert_eq!(observer.next().await.unwrap().topic.as_str(), "a.1");
    fixture.bus.pass(&events[4..]);
    fixture.bus.close();
    assert_eq!(observer.next().await.unwrap().topic.as_str(), "a.2");
    assert_eq!(observer.next().await.unwrap().topic.as_str(), "a.4");
    assert!(observer.next().await.is_none());
    assert_eq!(observer.dropped(), 2);
}

#[tokio::test]
async fn an_observer_hears_of_passing_events_only_and_not_of_those_left_out() {
    let mut fixture = Fixture::new(8);
    let mut observer = fixture.bus.observe(interest_except(&[">"], &["y"]), 8);
    fixture.release(&[("a", "x")]);
    fixture.bus.pass(&[event("a", "y", false), event("a", "x", false)]);
    assert_eq!(observer.next().now_or_never().unwrap().unwrap().source.as_str(), "x");
    assert!(observer.next().now_or_never().is_none());
}

#[test]
fn whether_anybody_observes_follows_the_observers() {
    let fixture = Fixture::new(8);
    let (a, b) = (Topic::literal("a"), Topic::literal("b"));
    assert!(!fixture.bus.wants_passing(&a));
    let observer = fixture.bus.observe(interest(&["a"]), 1);
    assert!(fixture.bus.wants_passing(&a) && !fixture.bus.wants_passing(&b));
    let all = fixture.bus.observe(interest(&[">"]), 1);
    assert!(fixture.bus.wants_passing(&b));
    drop((observer, all));
    assert!(!fixture.bus.wants_passing(&a) && !fixture.bus.wants_passing(&b));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_observer_is_woken_by_an_event_and_by_closing() {
    let fixture = Fixture::new(8);
    let mut observer = fixture.bus.observe(interest(&["a"]), 1);
    let hearing = async {
        let mut n = 0;
        while observer.next().await.is_some() {
            n += 1;
        }
        n
    };
    let passing = async {
        for _ in 0..3 {
            tokio::time::advance(std::time::Duration::from_millis(1)).await;
            fixture.bus.pass(&[event("a", "x", false)]);
        }
        tokio::time::advance(std::time::Duration::from_millis(1)).await;
        fixture.bus.close();
    };
    let both = futures::future::join(hearing, passing);
    assert_eq!(tokio::time::timeout(std::time::Duration::from_secs(60), both).await.expect("woken").0, 3);
}
