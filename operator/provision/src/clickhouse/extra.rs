//! A team's own columns as ClickHouse computes them: `MATERIALIZED` from a path into a column of JSON. Pure.
//!
//! Names and paths have passed the schema's patterns, so they hold no quotes; they are quoted all the same.

use penstock_crds::pipeline::{ExtraColumn, ExtraKind};
use penstock_dataplane_config::table::quote_literal;

/// The column's type, as `system.columns` writes it.
pub(crate) fn kind(column: &ExtraColumn) -> String {
    let plain = match column.kind {
        ExtraKind::String | ExtraKind::Symbol => "String",
        ExtraKind::Int64 => "Int64",
        ExtraKind::UInt64 => "UInt64",
        ExtraKind::Float64 => "Float64",
        ExtraKind::Bool => "Bool",
        ExtraKind::Timestamp => "DateTime64(3, 'UTC')",
        ExtraKind::Json => "JSON",
    };
    let kind = match column.nullable {
        true => format!("Nullable({plain})"),
        false => plain.to_owned(),
    };
    match column.kind {
        ExtraKind::Symbol => format!("LowCardinality({kind})"),
        _ => kind,
    }
}

/// The expression that fills it.
pub(crate) fn expression(column: &ExtraColumn) -> String {
    let mut names = column.from.split('.');
    let json = names.next().unwrap_or("properties");
    let path = names.map(quote_literal).collect::<Vec<_>>().join(", ");
    match (column.kind, column.nullable) {
        (ExtraKind::Timestamp, nullable) => {
            let or = if nullable { "OrNull" } else { "OrZero" };
            format!("parseDateTime64BestEffort{or}(JSONExtractString({json}, {path}), 3, 'UTC')")
        }
        // A value that is no object, or names a path twice, is {}: a CAST would refuse the row.
        (ExtraKind::Json, _) if path.is_empty() => format!("JSONExtract({json}, 'JSON')"),
        _ => {
            let plain = kind(column);
            let plain = plain
                .strip_prefix("LowCardinality(")
                .and_then(|inner| inner.strip_suffix(')'))
                .unwrap_or(&plain);
            format!("JSONExtract({json}, {path}, {})", quote_literal(plain))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_computed_from_json() {
        let column = |kind, from: &str, nullable| ExtraColumn {
            name: "c".into(),
            kind,
            from: from.into(),
            nullable,
        };
        for (column, is, by) in [
            (
                column(ExtraKind::Float64, "properties.cart.total", false),
                "Float64",
                "JSONExtract(properties, 'cart', 'total', 'Float64')",
            ),
            (
                column(ExtraKind::Symbol, "attribution.utm_source", true),
                "LowCardinality(Nullable(String))",
                "JSONExtract(attribution, 'utm_source', 'Nullable(String)')",
            ),
            (
                column(ExtraKind::Timestamp, "context.sent", false),
                "DateTime64(3, 'UTC')",
                "parseDateTime64BestEffortOrZero(JSONExtractString(context, 'sent'), 3, 'UTC')",
            ),
            (
                column(ExtraKind::Json, "properties", false),
                "JSON",
                "JSONExtract(properties, 'JSON')",
            ),
            (
                column(ExtraKind::Json, "context.device", false),
                "JSON",
                "JSONExtract(context, 'device', 'JSON')",
            ),
            (
                column(ExtraKind::Timestamp, "context.sent", true),
                "Nullable(DateTime64(3, 'UTC'))",
                "parseDateTime64BestEffortOrNull(JSONExtractString(context, 'sent'), 3, 'UTC')",
            ),
        ] {
            assert_eq!((kind(&column).as_str(), expression(&column).as_str()), (is, by));
        }
    }
}
