//! Measures the SQLite store: `cargo run --release -p httppubsub-store --example measure [folder]`.

#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use httppubsub_proto::subscription::{Interest, Subscription, SubscriptionSet};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;
use httppubsub_store::{
    Change, Feed as _, Missed, Notices as _, Observer, SqliteStore, StoreError, Subscriptions as _,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = match std::env::args().nth(1) {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => tempfile::tempdir()?,
    };
    let path = folder.path().join("measure.db");
    let store = Arc::new(SqliteStore::open(&path).await?);
    store.watch(Arc::new(Count::default())).await?;

    for callers in [1, 64, 512] {
        let each = if callers == 1 {
            1_000
        } else {
            40_000 / callers
        };
        rate(&format!("subscribe, {callers} callers"), callers, each, {
            let store = store.clone();
            async move |caller, n| {
                let url = url(format!("http://host-{callers}-{caller}/v1/receive"));
                let recovery = Some(self::url(format!("http://host-{caller}/v1/recover")));
                let interest = Interest::Exact(topic(n));
                store
                    .subscribe(Subscription {
                        url,
                        interest,
                        recovery,
                    })
                    .await
                    .map(drop)
            }
        })
        .await?;
    }
    rate("record_missed, 64 callers, own rows", 64, 600, {
        let store = store.clone();
        async move |caller, n| {
            let url = url(format!("http://host-64-{caller}/v1/receive"));
            store.record_missed(missed(url, n)).await
        }
    })
    .await?;
    rate("record_missed, 64 callers, one row", 64, 600, {
        let store = store.clone();
        async move |_, _| {
            store
                .record_missed(missed(url("http://host-64-0/v1/receive".into()), 0))
                .await
        }
    })
    .await?;
    for callers in [1, 64] {
        rate(
            &format!("catch_up, nothing new, {callers} callers"),
            callers,
            4_000,
            {
                let store = store.clone();
                async move |_, _| store.catch_up().await
            },
        )
        .await?;
    }

    let wanted: SubscriptionSet = (0..100_000)
        .map(|n| (Interest::Exact(topic(n)), None))
        .collect();
    let one = url("http://one/".to_owned());
    once("set of 100 000 new", store.set(one.clone(), wanted.clone())).await?;
    once("set of 100 000 unchanged", store.set(one.clone(), wanted)).await?;
    once("etag of 100 000", store.etag(one.clone())).await?;
    once(
        "set of none instead of 100 000",
        store.set(one, SubscriptionSet::default()),
    )
    .await?;

    rate(
        "set of 10 new, 64 callers, 1 000 000 rows in all",
        64,
        1_563,
        {
            let store = store.clone();
            async move |caller, n| {
                let url = url(format!(
                    "http://host-{caller}.example.com:8080/{n}/v1/receive"
                ));
                let recovery = Some(self::url(format!("http://host-{caller}/{n}/v1/recover")));
                let of = |k| {
                    (
                        Interest::Exact(topic((n * 10 + k) % 10_000)),
                        recovery.clone(),
                    )
                };
                store.set(url, (0..10).map(of).collect()).await.map(drop)
            }
        },
    )
    .await?;
    drop(store);

    let before = resident_mib();
    let started = Instant::now();
    let store = SqliteStore::open(&path).await?;
    println!("{:<56} {:>10.3} s", "open", started.elapsed().as_secs_f64());
    let count = Arc::new(Count::default());
    once("load of all", store.watch(count.clone())).await?;
    println!("{:<56} {:>10}", "  rows", count.0.load(Ordering::Relaxed));
    println!(
        "{:<56} {:>10} MiB",
        "  resident memory more",
        resident_mib() - before
    );
    println!(
        "{:<56} {:>10} MiB",
        "  file",
        std::fs::metadata(&path)?.len() >> 20
    );
    Ok(())
}

async fn rate(
    what: &str,
    callers: usize,
    each: usize,
    call: impl AsyncFn(usize, usize) -> Result<(), StoreError> + Clone,
) -> Result<(), StoreError> {
    let started = Instant::now();
    let all = (0..callers).map(|caller| {
        let call = call.clone();
        async move {
            for n in 0..each {
                call(caller, n).await?;
            }
            Ok(())
        }
    });
    for done in futures_util::future::join_all(all).await {
        done?;
    }
    let calls = (callers * each) as f64;
    println!(
        "{what:<56} {:>10.0} /s",
        calls / started.elapsed().as_secs_f64()
    );
    Ok(())
}

async fn once<T>(
    what: &str,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let started = Instant::now();
    let done = call.await?;
    println!("{what:<56} {:>10.3} s", started.elapsed().as_secs_f64());
    Ok(done)
}

#[derive(Default)]
struct Count(AtomicU64);

impl Observer for Count {
    fn observe(&self, changes: &[Change]) {
        let added = changes
            .iter()
            .filter(|it| matches!(it, Change::Added(_)))
            .count();
        self.0.fetch_add(added as u64, Ordering::Relaxed);
    }
}

fn missed(url: SubscriberUrl, n: usize) -> Missed {
    let due = Now::from_unix(Duration::from_secs(1_700_000_000 + n as u64));
    Missed {
        url,
        interest: Interest::Exact(topic(n)),
        topic: topic(n),
        due,
    }
}

fn topic(n: usize) -> Topic {
    Topic::new(format!("jobs/{n:06}/finished")).expect("it is short")
}

fn url(text: String) -> SubscriberUrl {
    SubscriberUrl::new(text).expect("it is short")
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|it| it.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
}
