// The replaced ingestion service, rebuilt from its published settings: Fiber v3 and segmentio/kafka-go.
//
// It does what Penstock's ingest does with a request: the key, the rules of each event, what the server adds, and one
// Kafka message per event. MODE=async answers before Kafka (acks of one, as the service ran), MODE=sync after it
// (acks of all).
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/gofiber/fiber/v3"
	"github.com/google/uuid"
	"github.com/segmentio/kafka-go"
)

const (
	maxEvents = 1000
	maxText   = 1000
	maxType   = 100
	ahead     = 5 * time.Minute
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
}

type stored struct {
	event
	AppID      string `json:"app_id"`
	ReceivedAt int64  `json:"received_at"`
	IP         string `json:"ip"`
	UserAgent  string `json:"user_agent"`
}

type batch struct {
	Events []event `json:"events"`
}

func (e *event) check(now time.Time) error {
	if e.EventType == "" || len(e.EventType) > maxType {
		return errors.New("event_type is required, up to 100 bytes")
	}
	for _, text := range []string{e.UserID, e.DeviceID, e.SessionID, e.Platform, e.OSVersion, e.AppVersion} {
		if len(text) > maxText {
			return errors.New("longer than 1000 bytes")
		}
	}
	if _, err := uuid.Parse(e.EventID); err != nil {
		return errors.New("event_id is no UUID")
	}
	if time.UnixMilli(e.Timestamp).After(now.Add(ahead)) {
		return errors.New("timestamp is too far ahead")
	}
	return nil
}

type service struct {
	writer *kafka.Writer
	apps   map[string]string
}

func (s *service) store(c fiber.Ctx, events []event) error {
	now := time.Now()
	ip, agent, app := c.IP(), c.Get(fiber.HeaderUserAgent), c.Locals("app").(string)
	messages := make([]kafka.Message, 0, len(events))
	for i := range events {
		if err := events[i].check(now); err != nil {
			return c.Status(fiber.StatusBadRequest).JSON(fiber.Map{
				"status": "error", "error": err.Error(), "code": "VALIDATION_ERROR", "details": i,
			})
		}
		value, err := json.Marshal(stored{events[i], app, now.UnixMilli(), ip, agent})
		if err != nil {
			return err
		}
		messages = append(messages, kafka.Message{Key: []byte(events[i].UserID), Value: value})
	}
	if err := s.writer.WriteMessages(context.Background(), messages...); err != nil {
		return c.Status(fiber.StatusServiceUnavailable).JSON(fiber.Map{
			"status": "error", "error": "failed to store events", "code": "DATABASE_ERROR",
		})
	}
	return c.JSON(fiber.Map{"status": "accepted", "accepted": len(events), "rejected": []any{}})
}

func (s *service) authenticate(c fiber.Ctx) error {
	app, known := s.apps[c.Get("X-API-Key")]
	if !known {
		return c.Status(fiber.StatusUnauthorized).JSON(fiber.Map{"status": "error", "error": "invalid API key"})
	}
	c.Locals("app", app)
	return c.Next()
}

func (s *service) one(c fiber.Ctx) error {
	events := make([]event, 1)
	if err := json.Unmarshal(c.Body(), &events[0]); err != nil {
		return c.Status(fiber.StatusBadRequest).JSON(fiber.Map{"status": "error", "error": "invalid JSON"})
	}
	return s.store(c, events)
}

func (s *service) many(c fiber.Ctx) error {
	var body batch
	if err := json.Unmarshal(c.Body(), &body); err != nil {
		return c.Status(fiber.StatusBadRequest).JSON(fiber.Map{"status": "error", "error": "invalid JSON"})
	}
	if len(body.Events) == 0 || len(body.Events) > maxEvents {
		return c.Status(fiber.StatusBadRequest).JSON(fiber.Map{"status": "error", "error": "1 to 1000 events"})
	}
	return s.store(c, body.Events)
}

func writer(mode, bootstrap, topic string) (*kafka.Writer, error) {
	w := &kafka.Writer{
		Addr:         kafka.TCP(strings.Split(bootstrap, ",")...),
		Topic:        topic,
		Balancer:     &kafka.LeastBytes{},
		Compression:  kafka.Snappy,
		BatchSize:    100,
		BatchTimeout: 10 * time.Millisecond,
		MaxAttempts:  3,
	}
	switch mode {
	case "async":
		w.Async, w.RequiredAcks = true, kafka.RequireOne
	case "sync":
		w.RequiredAcks = kafka.RequireAll
	default:
		return nil, fmt.Errorf("MODE is %q, not async or sync", mode)
	}
	return w, nil
}

func main() {
	w, err := writer(os.Getenv("MODE"), os.Getenv("KAFKA_BOOTSTRAP"), os.Getenv("TOPIC"))
	if err != nil {
		log.Fatal(err)
	}
	s := &service{writer: w, apps: map[string]string{os.Getenv("API_KEY"): os.Getenv("APP_ID")}}
	app := fiber.New(fiber.Config{ReadBufferSize: 16384, WriteBufferSize: 16384, BodyLimit: 8 << 20})
	app.Use(s.authenticate)
	app.Post("/v1/events", s.one)
	app.Post("/v1/events/batch", s.many)
	err = app.Listen(os.Getenv("LISTEN"), fiber.ListenConfig{DisableStartupMessage: true})
	if closing := w.Close(); err == nil {
		err = closing
	}
	if err != nil {
		log.Fatal(err)
	}
}
