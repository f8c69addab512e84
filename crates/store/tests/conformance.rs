//! Every backend keeps the promises of the trait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use httppubsub_store::{MemoryStore, SqliteStore, Store, conformance};

#[tokio::test]
async fn the_memory_store_conforms() {
    conformance::run(async || Arc::new(MemoryStore::new()) as Arc<dyn Store>).await;
}

#[tokio::test]
async fn the_sqlite_store_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let made = AtomicUsize::new(0);
    conformance::run(async || {
        let name = format!("{}.db", made.fetch_add(1, Ordering::Relaxed));
        let store = SqliteStore::open(folder.path().join(name)).await.unwrap();
        Arc::new(store) as Arc<dyn Store>
    })
    .await;
}
