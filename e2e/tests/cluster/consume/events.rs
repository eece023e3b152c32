//! Records as ingest writes them.

use std::fmt::Write as _;

use uuid::Uuid;

pub(crate) const APP: &str = "6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b11";

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// One line; about 470 bytes, like an event of the benchmarks after ingest.
pub(crate) fn line(run: u64, number: u64, user: &str) -> String {
    line_at(run, number, user, now_ms())
}

/// The same of an event that happened at another time.
pub(crate) fn line_at(run: u64, number: u64, user: &str, at: u64) -> String {
    let id = Uuid::from_u128(u128::from(run) << 64 | u128::from(number));
    let received_at = now_ms();
    let mut line = format!(
        r#"{{"v":1,"app_id":"{APP}","event_id":"{id}","received_at":{received_at},"timestamp":{at},"client_timestamp":{at},"ip":"203.0.113.{}","user_agent":"Mozilla/5.0 (X11; Linux x86_64)","library":"shop/1.4.2","source":"native","event_type":"{}","user_id":"{user}","device_id":"device-{}","session_id":"session-{}","platform":"{}","os_version":"17.{}","app_version":"4.{}.1","#,
        number % 250,
        ["purchase", "view", "click", "search"][number as usize % 4],
        number % 1000,
        number % 5000,
        ["ios", "android", "web"][number as usize % 3],
        number % 7,
        number % 9,
    );
    let _ = writeln!(
        line,
        r#""event_data":{{"amount":{}.5,"currency":"EUR","item":"sku-{}","note":"ein \"schönes\" Stück"}}}}"#,
        number % 400,
        number % 10_000
    );
    line
}

/// A record of `count` lines, numbered from `first`.
pub(crate) fn record(run: u64, first: u64, count: u64) -> String {
    (first..first + count)
        .map(|number| line(run, number, &format!("user-{}", number % 20_000)))
        .collect()
}
