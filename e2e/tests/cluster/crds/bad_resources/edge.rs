//! What must not be asked of a pipeline's edge: origins, proxies, TLS, headers.

use super::{Case, app, pipeline};

pub(super) fn cases() -> Vec<Case> {
    let origins: Vec<String> = (0..33).map(|n| format!("'https://a{n}.example'")).collect();
    let origins = format!("{{origins: [{}]}}", origins.join(", "));
    let proxies: Vec<String> = (0..65).map(|n| format!("10.0.{n}.0/24")).collect();
    let proxies = format!("ingest: {{trustedProxies: [{}]}}", proxies.join(", "));
    vec![
        app("33 origins", &origins, &["spec.origins", "32"]),
        app("any origin by a star", "{origins: ['*']}", &["spec.origins[0]"]),
        app(
            "an origin with a path",
            "{origins: ['https://shop.example/']}",
            &["spec.origins[0]"],
        ),
        app(
            "an origin in capitals",
            "{origins: ['https://Shop.example']}",
            &["spec.origins[0]"],
        ),
        app(
            "an origin without a scheme",
            "{origins: [shop.example]}",
            &["spec.origins[0]"],
        ),
        app(
            "an origin with its scheme's own port",
            "{origins: ['https://shop.example:443']}",
            &["spec.origins", "browsers leave it out"],
        ),
        app(
            "one origin twice",
            "{origins: ['https://a.example', 'https://a.example']}",
            &["spec.origins[1]"],
        ),
        app(
            "a key trusted with a word",
            "{keys: [{name: a, trusted: 'yes'}]}",
            &["spec.keys[0].trusted"],
        ),
        pipeline(
            "65 trusted proxies",
            &proxies,
            &["spec.ingest.trustedProxies", "64"],
        ),
        pipeline(
            "an address for a network",
            "ingest: {trustedProxies: [10.0.0.1]}",
            &["spec.ingest.trustedProxies[0]"],
        ),
        pipeline(
            "a network beyond 32 bits",
            "ingest: {trustedProxies: [10.0.0.0/33]}",
            &["spec.ingest.trustedProxies[0]"],
        ),
        pipeline(
            "a network of numbers beyond 255",
            "ingest: {trustedProxies: [10.0.0.256/32]}",
            &["spec.ingest.trustedProxies[0]"],
        ),
        pipeline(
            "no connection",
            "ingest: {limits: {connections: 0}}",
            &["spec.ingest.limits.connections"],
        ),
        pipeline(
            "more than a million connections",
            "ingest: {limits: {connections: 1000001}}",
            &["spec.ingest.limits.connections"],
        ),
        pipeline(
            "TLS of no Secret",
            "endpoint: {tls: {}}",
            &["spec.endpoint.tls.secretName"],
        ),
        pipeline(
            "TLS of a Secret that cannot be",
            "endpoint: {tls: {secretName: 'A_b'}}",
            &["spec.endpoint.tls.secretName"],
        ),
        pipeline(
            "a Server header of two lines",
            "endpoint: {serverHeader: \"a\\nb\"}",
            &["spec.endpoint.serverHeader"],
        ),
        pipeline(
            "an empty Server header",
            "endpoint: {serverHeader: ''}",
            &["spec.endpoint.serverHeader"],
        ),
    ]
}
