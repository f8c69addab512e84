//! Sends a file of any size and receives it as a file: neither end holds it in memory.
//!
//! `cargo run -p httppubsub --example large_file -- http://127.0.0.1:3003 film.mkv copy.mkv`
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use httppubsub::{Client, ClientConfig, NotifyBody};
use tokio::fs::File;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(broadcaster), Some(from), Some(to)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("usage: large_file BROADCASTER FROM TO".into());
    };
    let client = Client::start(ClientConfig::builder([broadcaster]).build()?).await?;
    let mut files = client.subscribe_exact("files").await?;
    let receiving = tokio::spawn(async move {
        let message = files.next().await.ok_or("the subscription ended")?;
        // Its length and digest were checked before it was yielded.
        let mut file = File::create(to).await.map_err(|it| it.to_string())?;
        let copied = tokio::io::copy(&mut message.reader(), &mut file).await;
        copied.map_err(|it| it.to_string())
    });

    let progress = |sent, all| println!("{sent} of {all} bytes");
    let body = NotifyBody::path(from);
    let notified = client.notify_with_progress("files", body, progress);
    let notified = notified.await?;
    println!("sent {}, sha512 {}", notified.bytes, notified.sha512);
    println!("received {} bytes", receiving.await??);
    client.close().await?;
    Ok(())
}
