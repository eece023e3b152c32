//! What a request asks for: parameters, settings, who sends it and in what it comes and goes.

use base64::Engine as _;
use bytes::Bytes;
use hyper::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method};
use percent_encoding::percent_decode_str;

use crate::body::Encoding;
use crate::failure::{Code, Failure};
use crate::multipart;

/// Parameters of the URL that this program reads itself; every other one is a setting of the engine.
const OWN: [&str; 20] = [
    "query",
    "database",
    "default_format",
    "user",
    "password",
    "quota_key",
    "session_id",
    "session_timeout",
    "session_check",
    "close_session",
    "query_id",
    "compress",
    "decompress",
    "role",
    "stacktrace",
    "buffer_size",
    "wait_end_of_query",
    "enable_http_compression",
    "http_response_headers",
    "client_protocol_version",
];

/// A request without its body.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    /// The statement, or its beginning, from the URL.
    pub(crate) query: String,
    pub(crate) database: Option<String>,
    pub(crate) default_format: Option<String>,
    pub(crate) query_id: Option<String>,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) session: Option<SessionRequest>,
    pub(crate) settings: Vec<(String, String)>,
    /// Values of `{name:Type}`.
    pub(crate) params: Vec<(String, String)>,
    /// The reply is made of ClickHouse's own blocks.
    pub(crate) compress: bool,
    /// The body is made of ClickHouse's own blocks.
    pub(crate) decompress: bool,
    pub(crate) content_encoding: Option<Encoding>,
    pub(crate) accept_encoding: Option<Encoding>,
    pub(crate) form_boundary: Option<String>,
    /// GET and HEAD may only read.
    pub(crate) read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionRequest {
    pub(crate) id: String,
    pub(crate) timeout_seconds: u64,
    pub(crate) must_exist: bool,
    pub(crate) close: bool,
}

impl Request {
    pub(crate) fn read(parts: &Parts) -> Result<Self, Failure> {
        let mut request = Self {
            user: "default".to_string(),
            read_only: matches!(parts.method, Method::GET | Method::HEAD),
            ..Self::default()
        };
        let mut session_id = String::new();
        let (mut session_timeout, mut session_check, mut close) = (60, false, false);
        let mut compression_allowed = true;
        for (name, value) in pairs(parts.uri.query().unwrap_or_default())? {
            match name.as_str() {
                "query" => request.query = value,
                "database" => request.database = Some(value).filter(|value| !value.is_empty()),
                "default_format" => request.default_format = Some(value).filter(|value| !value.is_empty()),
                "query_id" => request.query_id = Some(value).filter(|value| !value.is_empty()),
                "user" => request.user = value,
                "password" => request.password = value,
                "compress" => request.compress = flag(&value),
                "decompress" => request.decompress = flag(&value),
                "enable_http_compression" => compression_allowed = flag(&value),
                "session_id" => session_id = value,
                "session_timeout" => {
                    session_timeout = value.parse().map_err(|_| {
                        Failure::new(
                            Code::InvalidSessionTimeout,
                            format_args!("Invalid session timeout: '{value}'"),
                        )
                    })?;
                }
                "session_check" => session_check = flag(&value),
                "close_session" => close = flag(&value),
                own if OWN.contains(&own) => {}
                _ => request.add_param_or_setting(name, value)?,
            }
        }
        if !session_id.is_empty() {
            if !(1..=3600).contains(&session_timeout) {
                return Err(Failure::new(
                    Code::InvalidSessionTimeout,
                    format_args!(
                        "Session timeout '{session_timeout}' is larger than max_session_timeout: 3600, or zero"
                    ),
                ));
            }
            request.session = Some(SessionRequest {
                id: session_id,
                timeout_seconds: session_timeout,
                must_exist: session_check,
                close,
            });
        }
        request.read_headers(&parts.headers, compression_allowed)?;
        Ok(request)
    }

    fn read_headers(&mut self, headers: &HeaderMap, compression_allowed: bool) -> Result<(), Failure> {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if header("x-clickhouse-user").is_some() || header("x-clickhouse-key").is_some() {
            self.user = header("x-clickhouse-user").unwrap_or("default").to_string();
            self.password = header("x-clickhouse-key").unwrap_or_default().to_string();
        } else if let Some(basic) = header(AUTHORIZATION.as_str()) {
            (self.user, self.password) = basic_credentials(basic)?;
        }
        if let Some(database) = header("x-clickhouse-database") {
            self.database.get_or_insert_with(|| database.to_string());
        }
        if let Some(format) = header("x-clickhouse-format") {
            self.default_format.get_or_insert_with(|| format.to_string());
        }
        self.content_encoding = Encoding::of_content(header(CONTENT_ENCODING.as_str()).unwrap_or_default())?;
        if compression_allowed {
            self.accept_encoding = header(ACCEPT_ENCODING.as_str()).and_then(Encoding::of_accept);
        }
        if let Some(boundary) = header(CONTENT_TYPE.as_str()).and_then(multipart::boundary) {
            self.form_boundary = Some(boundary?);
        }
        Ok(())
    }

    /// Takes the fields of a form: the query, its parameters, and settings.
    pub(crate) fn take_form(&mut self, body: &Bytes, boundary: &str) -> Result<(), Failure> {
        for field in multipart::parse(body, boundary)? {
            if field.file_name.is_some() {
                return Err(Failure::new(
                    Code::NotImplemented,
                    format_args!(
                        "External tables are not supported here (the form's field {})",
                        field.name
                    ),
                ));
            }
            let value = String::from_utf8(field.value.to_vec()).map_err(|_| {
                Failure::new(
                    Code::BadRequestParameter,
                    format_args!("The form's field {} is not UTF-8", field.name),
                )
            })?;
            match field.name.as_str() {
                "query" => self.query.push_str(&value),
                "database" => self.database = Some(value),
                "default_format" => self.default_format = Some(value),
                own if OWN.contains(&own) => {}
                _ => self.add_param_or_setting(field.name, value)?,
            }
        }
        Ok(())
    }

    fn add_param_or_setting(&mut self, name: String, value: String) -> Result<(), Failure> {
        if let Some(param) = name.strip_prefix("param_") {
            self.params.push((param.to_string(), value));
            return Ok(());
        }
        // The name goes into a SET statement as it is.
        if name.is_empty()
            || !name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            return Err(Failure::new(
                Code::UnknownSetting,
                format_args!("Unknown setting '{name}'"),
            ));
        }
        self.settings.push((name, value));
        Ok(())
    }
}

fn flag(value: &str) -> bool {
    matches!(value, "1" | "true")
}

fn basic_credentials(header: &str) -> Result<(String, String), Failure> {
    let wrong = || {
        Failure::new(
            Code::AuthenticationFailed,
            "Invalid authentication: the Authorization header is not Basic",
        )
    };
    let (scheme, encoded) = header.split_once(' ').ok_or_else(wrong)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(wrong());
    }
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(encoded.trim())
        .map_err(|_| wrong())?;
    let decoded = String::from_utf8(decoded).map_err(|_| wrong())?;
    let (user, password) = decoded.split_once(':').ok_or_else(wrong)?;
    Ok((user.to_string(), password.to_string()))
}

/// The pairs of a URL's query or of a form, with `+` as a space.
fn pairs(query: &str) -> Result<Vec<(String, String)>, Failure> {
    let decode = |text: &str| {
        percent_decode_str(&text.replace('+', " "))
            .decode_utf8()
            .map(|text| text.into_owned())
            .map_err(|_| Failure::new(Code::BadRequestParameter, "A parameter of the URL is not UTF-8"))
    };
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Result<Request, u32> {
        let mut builder = hyper::Request::builder().uri(uri).method("POST");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let (parts, ()) = builder.body(()).expect("a request").into_parts();
        Request::read(&parts).map_err(|failure| failure.number())
    }

    #[test]
    fn parameters_are_told_from_settings() {
        let read = request(
            "/?query=SELECT+%7Ba%3AString%7D&param_a=x%26y&max_threads=2&database=d&session_id=s&session_timeout=5&wait_end_of_query=1",
            &[],
        )
        .expect("reads");
        assert_eq!(read.query, "SELECT {a:String}");
        assert_eq!(read.params, [("a".to_string(), "x&y".to_string())]);
        assert_eq!(read.settings, [("max_threads".to_string(), "2".to_string())]);
        assert_eq!(read.database.as_deref(), Some("d"));
        let session = SessionRequest {
            id: "s".into(),
            timeout_seconds: 5,
            must_exist: false,
            close: false,
        };
        assert_eq!(read.session, Some(session));
        assert_eq!(request("/?a%3D1;DROP=x", &[]).expect_err("refused"), 115);
        assert_eq!(request("/?query=%ff", &[]).expect_err("refused"), 408);
        assert_eq!(
            request("/?session_id=s&session_timeout=4000", &[]).expect_err("refused"),
            374
        );
    }

    #[test]
    fn credentials_come_from_headers_first() {
        let who = |uri: &str, headers: &[(&str, &str)]| {
            request(uri, headers).map(|request| (request.user, request.password))
        };
        let pair = |user: &str, password: &str| Ok((user.to_string(), password.to_string()));
        assert_eq!(who("/", &[]), pair("default", ""));
        assert_eq!(who("/?user=u&password=p", &[]), pair("u", "p"));
        assert_eq!(
            who("/?user=u&password=p", &[("Authorization", "Basic YTpiOmM=")]),
            pair("a", "b:c")
        );
        let headers = [
            ("X-ClickHouse-User", "h"),
            ("X-ClickHouse-Key", "k"),
            ("Authorization", "Basic YTpiOmM="),
        ];
        assert_eq!(who("/", &headers), pair("h", "k"));
        assert_eq!(who("/", &[("Authorization", "Bearer x")]), Err(516));
    }
}
