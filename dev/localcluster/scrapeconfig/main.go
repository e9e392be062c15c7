// What the Prometheus operator would give a Prometheus to scrape, made by its own generator.
//
// Reads {"prometheus": ..., "serviceMonitors": [...]} as JSON, all objects as the API server has them;
// writes Prometheus' configuration.
package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus-operator/prometheus-operator/pkg/assets"
	"github.com/prometheus-operator/prometheus-operator/pkg/prometheus"
)

func main() {
	config, err := generated()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Stdout.Write(config)
}

func generated() ([]byte, error) {
	var given struct {
		Prometheus      monitoringv1.Prometheus        `json:"prometheus"`
		ServiceMonitors []*monitoringv1.ServiceMonitor `json:"serviceMonitors"`
	}
	decoder := json.NewDecoder(os.Stdin)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&given); err != nil {
		return nil, err
	}
	monitors := map[string]*monitoringv1.ServiceMonitor{}
	for _, monitor := range given.ServiceMonitors {
		monitors[monitor.Namespace+"/"+monitor.Name] = monitor
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	generator, err := prometheus.NewConfigGenerator(log, &given.Prometheus, prometheus.WithEndpointSliceSupport())
	if err != nil {
		return nil, err
	}
	nothing := assets.NewStoreBuilder(nil, nil) // no monitor of ours names a Secret
	return generator.GenerateServerConfiguration(
		&given.Prometheus, monitors, nil, nil, nil, nothing, nil, nil, nil, nil,
	)
}
