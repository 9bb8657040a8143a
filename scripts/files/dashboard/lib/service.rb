# frozen_string_literal: true

# What both services share: settings from the environment, one Rack application on loopback, logs on the
# standard streams, a clean stop on SIGTERM.

ENV["BUNDLE_GEMFILE"] ||= File.expand_path("../Gemfile", __dir__)
require "bundler/setup"
require "json"
require "puma"
require "puma/configuration"
require "puma/launcher"

$stdout.sync = true
$stderr.sync = true

module Service
  JSON_TYPE = { "content-type" => "application/json", "cache-control" => "no-store" }.freeze
  PORTS = (1..65_535)
  THREADS = 8

  module_function

  # The values of these variables; the process ends with a sentence about all that are missing.
  def settings(*names)
    missing = names.select { |name| ENV.fetch(name, "").empty? }
    abort "#{$PROGRAM_NAME}: set #{missing.join(", ")} in the environment" unless missing.empty?
    ENV.values_at(*names)
  end

  def number(name, within)
    text = ENV.fetch(name)
    value = Integer(text, 10, exception: false)
    return value if value && within.cover?(value)

    abort "#{$PROGRAM_NAME}: #{name} must be a number from #{within.min} to #{within.max}, not #{text.inspect}"
  end

  def json(status, body)
    body = JSON.generate(body) unless body.is_a?(String)
    [status, JSON_TYPE, [body]]
  end

  # Returns after SIGTERM or SIGINT, when running requests are answered.
  def serve(app, port)
    configuration = Puma::Configuration.new(config_files: ["-"]) do |config|
      config.bind "tcp://127.0.0.1:#{port}"
      config.threads 1, THREADS
      config.workers 0
      config.environment ENV.fetch("RACK_ENV", "production")
      config.raise_exception_on_sigterm false
      config.app app
    end
    Puma::Launcher.new(configuration).run
  end
end
