# frozen_string_literal: true

# `ruby webhook/test/webhook_test.rb`; needs ruby-minitest, which comes with Debian's Ruby.

require "minitest/autorun"
require "stringio"
require_relative "../debounce"
require_relative "../deliveries"

class WebhookTest < Minitest::Test
  SECRET = "a secret of the test"
  BODY = '{"ref":"refs/heads/main"}'

  def setup
    @accepted = []
    @deliveries = Deliveries.new(SECRET, @accepted)
  end

  def test_only_the_signature_of_this_body_with_this_secret_is_let_in
    assert_equal 202, deliver(BODY, signature(BODY))
    assert_equal 401, deliver(BODY, nil)
    assert_equal 401, deliver(BODY, "")
    assert_equal 401, deliver(BODY, signature(BODY).delete_prefix("sha256="))
    assert_equal 401, deliver(BODY, signature(BODY, "another secret"))
    assert_equal 401, deliver("#{BODY} ", signature(BODY))
    assert_equal 1, @accepted.size
  end

  def test_a_large_body_is_refused_before_its_signature_is_looked_at
    largest = "x" * Deliveries::LARGEST
    assert_equal 202, deliver(largest, signature(largest))
    assert_equal 413, deliver("#{largest}x", nil)
  end

  def test_headers_are_tamed_before_they_reach_a_log
    deliver(BODY, signature(BODY), "HTTP_X_GITHUB_EVENT" => "push\nforged \xff")
    assert_equal "push?forged??", @accepted.first[:event]
  end

  def test_a_burst_is_handed_on_together_and_the_rest_at_the_end
    handed_on = Queue.new
    debounce = Debounce.new(0.05) { |items| handed_on << items }
    debounce << 1 << 2
    assert_equal [1, 2], handed_on.pop
    debounce = Debounce.new(3600) { |items| handed_on << items }
    debounce << 3
    debounce.finish
    assert_equal [3], handed_on.pop(true)
  end

  private

  def signature(body, secret = SECRET)
    "sha256=#{OpenSSL::HMAC.hexdigest("SHA256", secret, body)}"
  end

  def deliver(body, signature, headers = {})
    request = { "REQUEST_METHOD" => "POST", "PATH_INFO" => "/webhook", "rack.input" => StringIO.new(body),
                "HTTP_X_HUB_SIGNATURE_256" => signature }
    status = nil
    capture_io { status, = @deliveries.call(request.merge(headers)) }
    status
  end
end
