# frozen_string_literal: true

require "websocket/driver"

# Sends every connected page a snapshot of the cats: when it connects, when a cat changes, and now and then.
class Live
  SECONDS = 5
  PAGES = 64

  def initialize(cats)
    @cats = cats
    @lock = Mutex.new
    @pages = []
    @latest = nil
  end

  def start
    @follower = Thread.new { loop { follow } }
  end

  def stop
    @follower.kill
    @lock.synchronize { @pages.dup }.each(&:close)
  end

  # Takes over the connection of a WebSocket request.
  def welcome(env)
    return Service.json(426, { error: "this is a WebSocket" }) unless WebSocket::Driver.websocket?(env)
    return Service.json(503, { error: "too many pages" }) unless @lock.synchronize { @pages.size < PAGES }

    page = Page.new(env)
    Thread.new { attend(page) }
    [-1, {}, []]
  end

  private

  def attend(page)
    page.converse do
      @lock.synchronize do
        @pages << page
        page.tell(@latest) if @latest
      end
    end
  ensure
    @lock.synchronize { @pages.delete(page) }
    page.close
  end

  def follow
    @cats.follow(SECONDS) { |snapshot| tell(snapshot) }
  rescue PG::Error => e
    warn "live: #{e.message.strip}"
    tell(nil)
    sleep 2
  end

  # Without a snapshot pages hear nothing and say so themselves.
  def tell(snapshot)
    @lock.synchronize do
      @latest = snapshot
      @pages.each { |page| page.tell(snapshot) } if snapshot
    end
  end

  # One page's end of its WebSocket.
  class Page
    attr_reader :env, :url

    def initialize(env)
      @env = env
      @url = "ws://#{env["HTTP_HOST"]}#{env["PATH_INFO"]}"
      @writing = Mutex.new
      @io = env["rack.hijack"].call || env["rack.hijack_io"]
      @driver = WebSocket::Driver.rack(self, max_length: 4096)
    end

    # Shakes hands, yields once, then answers pings until the page leaves.
    def converse
      @driver.on(:open) { yield }
      @driver.on(:close) { close }
      @driver.start
      loop { @driver.parse(@io.readpartial(4096)) }
    rescue IOError, SystemCallError
      nil
    end

    def tell(text)
      @driver.text(text)
    end

    # Called by the driver. A page that does not keep up is left behind: nobody waits for it.
    def write(data)
      @writing.synchronize do
        data = data.byteslice(@io.write_nonblock(data)..) until data.empty?
      end
    rescue IOError, SystemCallError
      close
    end

    def close
      @io.close
    rescue IOError, SystemCallError
      nil
    end
  end
end
