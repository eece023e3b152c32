//! Reads a `multipart/form-data` body, as clients send a query with its parameters: small text fields, each with a name.

use bytes::Bytes;

use crate::failure::{Code, Failure};

/// A field of a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: String,
    /// Given for uploaded files, which become external tables in the server.
    pub(crate) file_name: Option<String>,
    pub(crate) value: Bytes,
}

/// The boundary of a form, from its Content-Type; `None` for another type of body.
pub(crate) fn boundary(content_type: &str) -> Option<Result<String, Failure>> {
    let (kind, rest) = content_type.split_once(';').unwrap_or((content_type, ""));
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let found = rest.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("boundary")
            .then(|| value.trim().trim_matches('"').to_string())
    });
    Some(match found {
        Some(boundary) if !boundary.is_empty() => Ok(boundary),
        _ => Err(malformed("its Content-Type has no boundary")),
    })
}

/// The fields of a whole form. A form without its closing boundary was cut short, and is refused.
pub(crate) fn parse(body: &Bytes, boundary: &str) -> Result<Vec<Field>, Failure> {
    let delimiter = format!("--{boundary}");
    let mut fields = Vec::new();
    // What stands before the first boundary is ignored.
    let mut at = find(body, delimiter.as_bytes(), 0).ok_or_else(|| malformed("the boundary is missing"))?;
    loop {
        at += delimiter.len();
        if body[at..].starts_with(b"--") {
            return Ok(fields);
        }
        let headers_start = skip_line_end(body, at)?;
        let headers_end = find(body, b"\r\n\r\n", headers_start)
            .ok_or_else(|| malformed("the headers of a field do not end"))?;
        let value_start = headers_end + 4;
        let next = format!("\r\n{delimiter}");
        let value_end = find(body, next.as_bytes(), value_start)
            .ok_or_else(|| malformed("the closing boundary is missing"))?;
        let headers = std::str::from_utf8(&body[headers_start..headers_end])
            .map_err(|_| malformed("the headers of a field are not text"))?;
        let (name, file_name) = disposition(headers)?;
        fields.push(Field {
            name,
            file_name,
            value: body.slice(value_start..value_end),
        });
        at = value_end + 2;
    }
}

fn skip_line_end(body: &[u8], at: usize) -> Result<usize, Failure> {
    // White space may stand between a boundary and its line's end.
    let blanks = body[at..]
        .iter()
        .take_while(|byte| matches!(byte, b' ' | b'\t'))
        .count();
    match body[at + blanks..].starts_with(b"\r\n") {
        true => Ok(at + blanks + 2),
        false => Err(malformed("a boundary is not followed by a line break")),
    }
}

fn disposition(headers: &str) -> Result<(String, Option<String>), Failure> {
    for line in headers.split("\r\n") {
        let Some((header, value)) = line.split_once(':') else {
            continue;
        };
        if !header.trim().eq_ignore_ascii_case("content-disposition") {
            continue;
        }
        let parameter = |wanted: &str| {
            value.split(';').find_map(|part| {
                let (name, value) = part.split_once('=')?;
                (name.trim().eq_ignore_ascii_case(wanted)).then(|| value.trim().trim_matches('"').to_string())
            })
        };
        if let Some(name) = parameter("name") {
            return Ok((name, parameter("filename")));
        }
    }
    Err(malformed("a field has no name"))
}

fn find(body: &[u8], needle: &[u8], from: usize) -> Option<usize> {
    body.get(from..)?
        .windows(needle.len())
        .position(|window| window == needle)
        .map(|at| from + at)
}

fn malformed(what: &str) -> Failure {
    Failure::new(
        Code::BadRequestParameter,
        format_args!("The multipart form is malformed: {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &str = "--b-1\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT {a:String}\r\n-- x\r\n\
        --b-1\r\nContent-Type: text/plain\r\ncontent-disposition: form-data; name=\"param_a\"; filename=\"f\"\r\n\r\n\r\n--b-1--\r\n";

    #[test]
    fn fields_are_read() {
        let fields = parse(&Bytes::from_static(FORM.as_bytes()), "b-1").expect("parses");
        let field = |name: &str, file: Option<&str>, value: &'static str| Field {
            name: name.to_string(),
            file_name: file.map(str::to_string),
            value: Bytes::from_static(value.as_bytes()),
        };
        assert_eq!(
            fields,
            [
                field("query", None, "SELECT {a:String}\r\n-- x"),
                field("param_a", Some("f"), "")
            ]
        );
    }

    #[test]
    fn a_form_that_is_cut_is_refused_at_every_byte() {
        let closing = FORM.rfind("--\r\n").expect("closes") + 2;
        for cut in 0..closing {
            let body = Bytes::copy_from_slice(&FORM.as_bytes()[..cut]);
            assert_eq!(
                parse(&body, "b-1").expect_err("refused").number(),
                408,
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn the_content_type_decides() {
        assert_eq!(
            boundary("multipart/form-data; boundary=abc"),
            Some(Ok("abc".to_string()))
        );
        assert_eq!(
            boundary("Multipart/Form-Data;charset=x; Boundary=\"a b\""),
            Some(Ok("a b".to_string()))
        );
        assert_eq!(boundary("text/plain"), None);
        assert!(boundary("multipart/form-data").is_some_and(|boundary| boundary.is_err()));
    }
}
