//! Which path is which endpoint. Pure; a trailing slash makes no difference.

use http::Method;
use penstock_dataplane_config::Protocol;

use super::segment::Call;

/// An endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route<'p> {
    Health,
    Event,
    Batch,
    SegmentBatch,
    SegmentCall(Call),
    /// What a browser SDK asks for before it starts; the key is in the path.
    SegmentSettings(&'p str),
    /// The replaced platform's `{app_id, events}`.
    Envelope,
    Unknown,
}

/// Whose clients read the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Native,
    Segment,
    Envelope,
}

impl Route<'_> {
    /// The label of metrics and logs; never the path itself, which clients choose.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Health => "/health",
            Self::Event => "/v1/events",
            Self::Batch => "/v1/events/batch",
            Self::SegmentBatch => "/segment/v1/batch",
            Self::SegmentCall(_) => "/segment/v1/{call}",
            Self::SegmentSettings(_) => "/segment/v1/projects/{writeKey}/settings",
            Self::Envelope => "/api/v1/events",
            Self::Unknown => "other",
        }
    }

    /// A number below [`Route::COUNT`], its own.
    pub(crate) fn number(&self) -> usize {
        match self {
            Self::Health => 0,
            Self::Event => 1,
            Self::Batch => 2,
            Self::SegmentBatch => 3,
            Self::SegmentCall(_) => 4,
            Self::SegmentSettings(_) => 5,
            Self::Envelope => 6,
            Self::Unknown => 7,
        }
    }

    pub(crate) const COUNT: usize = 8;

    /// The `Allow` header.
    pub(crate) fn allow(&self) -> &'static str {
        match self {
            Self::Health | Self::SegmentSettings(_) => "GET, HEAD",
            _ => "POST",
        }
    }

    pub(crate) fn allows(&self, method: &Method) -> bool {
        match self {
            Self::Health | Self::SegmentSettings(_) => matches!(*method, Method::GET | Method::HEAD),
            Self::Unknown => true,
            _ => *method == Method::POST,
        }
    }

    /// Errors are written the way the protocol's clients read them.
    pub(crate) fn form(&self) -> Form {
        match self {
            Self::SegmentBatch | Self::SegmentCall(_) | Self::SegmentSettings(_) => Form::Segment,
            Self::Envelope => Form::Envelope,
            _ => Form::Native,
        }
    }

    pub(crate) fn is_segment(&self) -> bool {
        self.form() == Form::Segment
    }

    /// The protocol's name in a line.
    pub(crate) fn source(&self) -> &'static str {
        match self.form() {
            Form::Native => "native",
            Form::Segment => "segment",
            Form::Envelope => "envelope",
        }
    }
}

/// Paths, each of a protocol or of all.
const PATHS: [(&str, Option<Protocol>); 10] = [
    ("/v1/events", Some(Protocol::Native)),
    ("/v1/events/batch", Some(Protocol::Native)),
    ("/api/attribution/track", Some(Protocol::Native)),
    ("/api/attribution/batch", Some(Protocol::Native)),
    ("/api/v1/events", Some(Protocol::Envelope)),
    ("/segment/v1/batch", Some(Protocol::Segment)),
    (
        "/segment/v1/{track,identify,page,screen,group,alias}",
        Some(Protocol::Segment),
    ),
    (
        "/segment/v1/projects/{writeKey}/settings",
        Some(Protocol::Segment),
    ),
    ("/health", None),
    ("/v1/healthcheck", None),
];

/// What exists for a pipeline that speaks `protocols`, for the answer to a path that does not.
pub(crate) fn paths(protocols: &[Protocol]) -> impl Iterator<Item = &'static str> {
    let there = PATHS
        .iter()
        .filter(|(_, of)| of.is_none_or(|protocol| protocols.contains(&protocol)));
    there.map(|(path, _)| *path)
}

/// The endpoint at `path` for a pipeline that speaks `protocols`.
pub(crate) fn of<'p>(path: &'p str, protocols: &[Protocol]) -> Route<'p> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let route = match path {
        "/v1/events" | "/api/attribution/track" => Route::Event,
        "/v1/events/batch" | "/api/attribution/batch" => Route::Batch,
        "/api/v1/events" => Route::Envelope,
        "/health" | "/v1/healthcheck" => return Route::Health,
        _ => match path.strip_prefix("/segment").unwrap_or(path).strip_prefix("/v1/") {
            Some(rest) => segment(rest),
            None => Route::Unknown,
        },
    };
    let protocol = match route.form() {
        Form::Native => Protocol::Native,
        Form::Segment => Protocol::Segment,
        Form::Envelope => Protocol::Envelope,
    };
    if protocols.contains(&protocol) {
        route
    } else {
        Route::Unknown
    }
}

fn segment(rest: &str) -> Route<'_> {
    if let Some(key) = rest
        .strip_prefix("projects/")
        .and_then(|rest| rest.strip_suffix("/settings"))
    {
        return if key.is_empty() || key.contains('/') {
            Route::Unknown
        } else {
            Route::SegmentSettings(key)
        };
    }
    let call = match rest {
        "batch" | "b" | "import" => return Route::SegmentBatch,
        "t" => Some(Call::Track),
        "i" => Some(Call::Identify),
        "p" => Some(Call::Page),
        "s" => Some(Call::Screen),
        "g" => Some(Call::Group),
        "a" => Some(Call::Alias),
        name => Call::of(name),
    };
    call.map_or(Route::Unknown, Route::SegmentCall)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Protocol; 3] = [Protocol::Native, Protocol::Segment, Protocol::Envelope];

    #[test]
    fn paths_lead_where_they_should() {
        for (path, expected) in [
            ("/v1/events", Route::Event),
            ("/v1/events/", Route::Event),
            ("/v1/events/batch", Route::Batch),
            ("/v1/events/batch/", Route::Batch),
            ("/api/attribution/track", Route::Event),
            ("/api/attribution/batch/", Route::Batch),
            ("/api/v1/events/", Route::Envelope),
            ("/api/v1/events/batch", Route::Unknown),
            ("/api/v1/track", Route::Unknown),
            ("/health", Route::Health),
            ("/v1/healthcheck/", Route::Health),
            ("/segment/v1/batch", Route::SegmentBatch),
            ("/segment/v1/b", Route::SegmentBatch),
            ("/segment/v1/import", Route::SegmentBatch),
            ("/v1/batch", Route::SegmentBatch),
            ("/v1/track", Route::SegmentCall(Call::Track)),
            ("/segment/v1/t", Route::SegmentCall(Call::Track)),
            ("/segment/v1/p/", Route::SegmentCall(Call::Page)),
            ("/segment/v1/alias", Route::SegmentCall(Call::Alias)),
            (
                "/segment/v1/projects/psk_1/settings",
                Route::SegmentSettings("psk_1"),
            ),
            ("/v1/projects/psk_1/settings", Route::SegmentSettings("psk_1")),
            ("/v1/projects/a/b/settings", Route::Unknown),
            ("/v1/projects//settings", Route::Unknown),
            ("/segment/v1/events", Route::Unknown),
            ("/segment/v1/dance", Route::Unknown),
            ("/v1", Route::Unknown),
            ("/", Route::Unknown),
            ("", Route::Unknown),
            ("/v1/events//", Route::Unknown),
            ("/metrics", Route::Unknown),
        ] {
            assert_eq!(of(path, &ALL), expected, "{path}");
        }
    }

    #[test]
    fn a_protocol_that_is_off_is_not_there() {
        assert_eq!(of("/v1/events", &[Protocol::Segment]), Route::Unknown);
        assert_eq!(of("/v1/batch", &[Protocol::Native]), Route::Unknown);
        assert_eq!(of("/api/v1/events", &ALL[..2]), Route::Unknown);
        assert_eq!(
            of("/api/attribution/track", &[Protocol::Envelope]),
            Route::Unknown
        );
        assert_eq!(of("/api/v1/events", &[Protocol::Envelope]), Route::Envelope);
        assert_eq!(of("/health", &[Protocol::Native]), Route::Health);
    }

    #[test]
    fn what_is_told_to_exist_does() {
        for protocols in [&ALL[..], &[Protocol::Native], &[Protocol::Segment], &[]] {
            for path in paths(protocols) {
                let path = path.replace("{track,identify,page,screen,group,alias}", "alias");
                assert_ne!(of(&path, protocols), Route::Unknown, "{path} of {protocols:?}");
            }
        }
        let told = |protocols: &[Protocol]| paths(protocols).count();
        assert_eq!((told(&ALL), told(&ALL[1..2]), told(&[])), (10, 5, 2));
    }

    proptest! {
        #[test]
        fn every_path_has_a_route_and_a_number(path in "[/a-z1{}]{0,40}") {
            prop_assert!(of(&path, &ALL).number() < Route::COUNT);
        }
    }
}
