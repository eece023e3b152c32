//! From librdkafka's errors to why provisioning failed.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::super::error::{ProvisionError, Service};

/// The code inside an error, where it has one.
pub(super) fn code(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

/// An error of a whole request.
pub(super) fn request(address: &str, error: &KafkaError) -> ProvisionError {
    match code(error) {
        Some(code) => broker(address, code, None),
        // No code: the client itself failed or was shut down; a new one is made for the next try.
        None => unavailable(address, error.to_string()),
    }
}

/// A broker's answer about one thing. `about`: what was asked, in words.
pub(super) fn broker(address: &str, code: RDKafkaErrorCode, about: Option<&str>) -> ProvisionError {
    if passes(code) {
        return unavailable(address, code.to_string());
    }
    let detail = match about {
        Some(about) => format!("{about}: {code}"),
        None => code.to_string(),
    };
    ProvisionError::Rejected {
        service: Service::Kafka,
        detail,
    }
}

pub(super) fn unavailable(address: &str, detail: impl Into<String>) -> ProvisionError {
    ProvisionError::Unavailable {
        service: Service::Kafka,
        address: address.into(),
        detail: detail.into(),
    }
}

/// Whether a failure goes by itself: nobody there, nobody elected, an answer too late.
fn passes(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as E;
    matches!(
        code,
        E::BrokerTransportFailure
            | E::AllBrokersDown
            | E::Resolve
            | E::OperationTimedOut
            | E::MessageTimedOut
            | E::TimedOutQueue
            | E::WaitingForCoordinator
            | E::NodeUpdate
            | E::LeaderNotAvailable
            | E::NotLeaderForPartition
            | E::RequestTimedOut
            | E::BrokerNotAvailable
            | E::ReplicaNotAvailable
            | E::NetworkException
            | E::CoordinatorLoadInProgress
            | E::CoordinatorNotAvailable
            | E::NotCoordinator
            | E::NotController
            | E::NotEnoughReplicas
            | E::NotEnoughReplicasAfterAppend
            | E::ThrottlingQuotaExceeded
            | E::ReassignmentInProgress
            // A broker that has not heard yet what another one knows.
            | E::UnknownTopicOrPartition
            | E::UnknownTopic
            | E::UnknownPartition
            | E::OffsetNotAvailable
            | E::FencedLeaderEpoch
            | E::UnknownLeaderEpoch
            | E::EligibleLeadersNotAvailable
            | E::KafkaStorageError
    )
}

#[cfg(test)]
mod tests {
    use penstock_crds::Reason;

    use super::*;

    #[test]
    fn what_passes_is_unavailable_and_the_rest_is_refused() {
        for (code, reason) in [
            (RDKafkaErrorCode::AllBrokersDown, Reason::KafkaUnavailable),
            (RDKafkaErrorCode::OperationTimedOut, Reason::KafkaUnavailable),
            (RDKafkaErrorCode::NotController, Reason::KafkaUnavailable),
            (RDKafkaErrorCode::OffsetNotAvailable, Reason::KafkaUnavailable),
            (RDKafkaErrorCode::InvalidReplicationFactor, Reason::KafkaRejected),
            (RDKafkaErrorCode::TopicAuthorizationFailed, Reason::KafkaRejected),
            (RDKafkaErrorCode::PolicyViolation, Reason::KafkaRejected),
        ] {
            assert_eq!(
                request("k:9092", &KafkaError::AdminOp(code)).reason(),
                reason,
                "{code:?}"
            );
            assert_eq!(
                request("k:9092", &KafkaError::MetadataFetch(code)).reason(),
                reason,
                "{code:?}"
            );
        }
        assert_eq!(
            request("k:9092", &KafkaError::Canceled).reason(),
            Reason::KafkaUnavailable
        );
    }

    #[test]
    fn the_message_names_the_address_and_the_matter() {
        let down = request(
            "k:9092",
            &KafkaError::MetadataFetch(RDKafkaErrorCode::AllBrokersDown),
        );
        assert!(
            down.to_string().starts_with("Kafka at k:9092 cannot be reached"),
            "{down}"
        );
        let refused = broker(
            "k:9092",
            RDKafkaErrorCode::InvalidConfig,
            Some("settings of topic t"),
        );
        assert!(
            refused
                .to_string()
                .starts_with("Kafka refused: settings of topic t"),
            "{refused}"
        );
    }
}
