// The replaced platform's consumer, rebuilt: a kafka-go reader in a group, one JSON event per message, clickhouse-go
// batches over HTTP with LZ4, offsets committed after each INSERT: at least once.
//
// BATCH_ROWS rows make a batch, or BATCH_WAIT since its first row. It fills those columns of Penstock's event table that
// its messages have.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
	"github.com/segmentio/kafka-go"
)

type event struct {
	EventType   string         `json:"event_type"`
	EventID     string         `json:"event_id"`
	UserID      string         `json:"user_id"`
	DeviceID    string         `json:"device_id"`
	SessionID   string         `json:"session_id"`
	Timestamp   int64          `json:"timestamp"`
	Platform    string         `json:"platform"`
	OSVersion   string         `json:"os_version"`
	AppVersion  string         `json:"app_version"`
	Attribution map[string]any `json:"attribution"`
	EventData   map[string]any `json:"event_data"`
	AppID       string         `json:"app_id"`
	ReceivedAt  int64          `json:"received_at"`
	IP          string         `json:"ip"`
	UserAgent   string         `json:"user_agent"`
}

// Said to the client, so that it does not ask for them before each batch.
var columns = []clickhouse.ColumnNameAndType{
	{Name: "event_id", Type: "UUID"},
	{Name: "app_id", Type: "UUID"},
	{Name: "event_name", Type: "LowCardinality(String)"},
	{Name: "user_id", Type: "String"},
	{Name: "device_id", Type: "String"},
	{Name: "session_id", Type: "String"},
	{Name: "event_timestamp", Type: "DateTime64(3, 'UTC')"},
	{Name: "client_timestamp", Type: "DateTime64(3, 'UTC')"},
	{Name: "received_at", Type: "DateTime64(3, 'UTC')"},
	{Name: "platform", Type: "LowCardinality(String)"},
	{Name: "os_version", Type: "LowCardinality(String)"},
	{Name: "app_version", Type: "LowCardinality(String)"},
	{Name: "attribution", Type: "String"},
	{Name: "properties", Type: "String"},
	{Name: "ip", Type: "String"},
	{Name: "user_agent", Type: "String"},
}

func (e *event) appendTo(batch driver.Batch) error {
	id, err := uuid.Parse(e.EventID)
	if err != nil {
		return err
	}
	app, err := uuid.Parse(e.AppID)
	if err != nil {
		return err
	}
	attribution, err := json.Marshal(e.Attribution)
	if err != nil {
		return err
	}
	properties, err := json.Marshal(e.EventData)
	if err != nil {
		return err
	}
	at := time.UnixMilli(e.Timestamp)
	return batch.Append(id, app, e.EventType, e.UserID, e.DeviceID, e.SessionID, at, at, time.UnixMilli(e.ReceivedAt),
		e.Platform, e.OSVersion, e.AppVersion, string(attribution), string(properties), e.IP, e.UserAgent)
}

type sink struct {
	reader *kafka.Reader
	store  driver.Conn
	insert string
	rows   int
	wait   time.Duration
}

// Reads one batch, stores it, commits it.
func (s *sink) batch(ctx context.Context) error {
	message, err := s.reader.FetchMessage(ctx)
	if err != nil {
		return err
	}
	until, cancel := context.WithTimeout(ctx, s.wait)
	defer cancel()
	batch, err := s.store.PrepareBatch(ctx, s.insert)
	if err != nil {
		return err
	}
	last := map[int]kafka.Message{}
	for {
		var e event
		if err := json.Unmarshal(message.Value, &e); err != nil {
			return err
		}
		if err := e.appendTo(batch); err != nil {
			return err
		}
		// The reader commits the last of a partition for all before it.
		last[message.Partition] = kafka.Message{Topic: message.Topic, Partition: message.Partition, Offset: message.Offset}
		if batch.Rows() >= s.rows {
			break
		}
		message, err = s.reader.FetchMessage(until)
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
		if err != nil {
			return err
		}
	}
	if err := batch.Send(); err != nil {
		return err
	}
	commits := make([]kafka.Message, 0, len(last))
	for _, message := range last {
		commits = append(commits, message)
	}
	return s.reader.CommitMessages(ctx, commits...)
}

// The engine behind its HTTP interface does not know `client_protocol_version`, which clickhouse-go's first question
// relies on. This gives the answer that a server would. Nothing else passes through it changed.
type hello struct{ next http.RoundTripper }

func (h hello) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.Body == nil || request.ContentLength <= 0 || request.ContentLength > 200 {
		return h.next.RoundTrip(request)
	}
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(body, []byte("SELECT displayName(), version(), revision(), timezone()")) {
		request.Body = io.NopCloser(bytes.NewReader(body))
		return h.next.RoundTrip(request)
	}
	name, version, zone := proto.ColStr{}, proto.ColStr{}, proto.ColStr{}
	name.Append("clickhouse")
	version.Append("26.7.2.1")
	zone.Append("UTC")
	revision := proto.ColUInt32{54460}
	var raw proto.Buffer
	block := proto.Block{Columns: 4, Rows: 1, Info: proto.BlockInfo{BucketNum: -1}}
	err = block.EncodeBlock(&raw, clickhouse.ClientTCPProtocolVersion, []proto.InputColumn{
		{Name: "displayName()", Data: &name},
		{Name: "version()", Data: &version},
		{Name: "revision()", Data: &revision},
		{Name: "timezone()", Data: &zone},
	})
	if err != nil {
		return nil, err
	}
	writer := compress.NewWriter(0, compress.LZ4)
	if err := writer.Compress(raw.Buf); err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{},
		Body: io.NopCloser(bytes.NewReader(writer.Data)), ContentLength: int64(len(writer.Data)), Request: request,
	}, nil
}

func main() {
	rows, err := strconv.Atoi(os.Getenv("BATCH_ROWS"))
	if err != nil {
		log.Fatalf("BATCH_ROWS: %v", err)
	}
	wait, err := time.ParseDuration(os.Getenv("BATCH_WAIT"))
	if err != nil {
		log.Fatalf("BATCH_WAIT: %v", err)
	}
	store, err := clickhouse.Open(&clickhouse.Options{
		Addr:     []string{os.Getenv("CLICKHOUSE_ADDRESS")},
		Protocol: clickhouse.HTTP,
		Auth: clickhouse.Auth{
			Database: os.Getenv("CLICKHOUSE_DATABASE"),
			Username: os.Getenv("CLICKHOUSE_USER"),
			Password: os.Getenv("CLICKHOUSE_PASSWORD"),
		},
		// The replaced platform's table was a plain MergeTree, whose INSERTs collapse nothing.
		Settings:      clickhouse.Settings{"async_insert": 0, "optimize_on_insert": 0},
		Compression:   &clickhouse.Compression{Method: clickhouse.CompressionLZ4},
		TransportFunc: func(next *http.Transport) (http.RoundTripper, error) { return hello{next}, nil },
	})
	if err != nil {
		log.Fatal(err)
	}
	names := make([]string, len(columns))
	for i := range columns {
		names[i] = columns[i].Name
	}
	s := sink{
		reader: kafka.NewReader(kafka.ReaderConfig{
			Brokers:     strings.Split(os.Getenv("KAFKA_BOOTSTRAP"), ","),
			GroupID:     os.Getenv("GROUP"),
			Topic:       os.Getenv("TOPIC"),
			StartOffset: kafka.FirstOffset,
			MinBytes:    10e3,
			MaxBytes:    10e6,
			// The default of 10 s would hold few events back for as long.
			MaxWait: 500 * time.Millisecond,
		}),
		store:  store,
		insert: "INSERT INTO events (" + strings.Join(names, ", ") + ")",
		rows:   rows,
		wait:   wait,
	}
	ctx := clickhouse.Context(context.Background(), clickhouse.WithColumnNamesAndTypes(columns))
	for {
		if err := s.batch(ctx); err != nil {
			log.Fatal(err)
		}
	}
}
